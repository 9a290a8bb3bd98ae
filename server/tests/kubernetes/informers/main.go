// Command informers works with one or two kube-apiservers as controllers do, while somebody kills what is behind them: see
// informers.sh, which starts it. Prints a line for each step; `begin faults` and `end faults` around the part in which anything
// may die; `begin rolling` and `end rolling` around that in which members are restarted in order. Exit 1: a step failed.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

const (
	namespace = "informers"
	// How long a cache may take to get where the store is. Informers whose apiserver was killed repeatedly wait for up to
	// 60 s before they try again.
	patience = 120 * time.Second
	// How often the apiserver sends one to a watch.
	bookmarkInterval = time.Minute
)

func say(format string, arguments ...any) {
	fmt.Printf(format+"\n", arguments...)
}

var failures int

func step(err error, format string, arguments ...any) {
	title := fmt.Sprintf(format, arguments...)
	if err != nil {
		failures++
		say("FAILED  %s: %v", title, err)
		return
	}
	say("ok      %s", title)
}

// orGiveUp: nothing that follows could work.
func orGiveUp(err error, format string, arguments ...any) {
	step(err, format, arguments...)
	if err != nil {
		os.Exit(1)
	}
}

func createNamespace(ctx context.Context, client dynamic.Interface, name string) error {
	spaces := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	_, err := spaces.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name},
	}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// defineMachines waits until all apiservers serve the resource.
func defineMachines(ctx context.Context, clients []dynamic.Interface, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	definition := &unstructured.Unstructured{}
	if err := json.Unmarshal(text, &definition.Object); err != nil {
		return err
	}
	definitions := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if _, err := clients[0].Resource(definitions).Create(ctx, definition, metav1.CreateOptions{}); err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for _, client := range clients {
		for {
			_, err := client.Resource(machines.GroupVersionResource).Namespace(namespace).List(ctx, metav1.ListOptions{})
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

func complain(complaints []string) error {
	if len(complaints) == 0 {
		return nil
	}
	return fmt.Errorf("%d complaints, such as: %s", len(complaints), strings.Join(complaints[:min(3, len(complaints))], "; "))
}

func main() {
	servers := flag.String("servers", "", "URLs of the apiservers; the first may be restarted, the last is left alone")
	token := flag.String("token", "", "bearer token")
	crd := flag.String("crd", "", "virtual-machine-crd.json")
	calm := flag.Int("calm", 2000, "lives of objects without faults, whose latencies count")
	lives := flag.Int("lives", 10000, "lives of objects under faults: each is created, updated and nine in ten are deleted; "+
		"0: nothing but the calm part")
	calmRate := flag.Int("calm-rate", 0, "lives begun in a second, without faults; 0: as many as can be")
	rate := flag.Int("rate", 120, "lives begun in a second, under faults")
	workers := flag.Int("workers", 16, "writers at once")
	rolled := flag.String("rolled", "", "file that is there as soon as all members have been restarted in order")
	lossy := flag.Bool("lossy", false, "calls may fail while members are restarted in order")
	streams := flag.Bool("streams", false, "the apiservers send lists of informers as streams")
	objects := flag.Int("crowd", 20000, "objects in the lists that come in pages")
	flag.Parse()

	ctx := context.Background()
	var configs []*rest.Config
	var clients []dynamic.Interface
	urls := strings.Split(*servers, ",")
	for _, url := range urls {
		config := &rest.Config{
			Host: url, BearerToken: *token, QPS: -1, Timeout: 0,
			TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		}
		client, err := dynamic.NewForConfig(config)
		orGiveUp(err, "client of %s", url)
		configs, clients = append(configs, config), append(clients, client)
	}
	orGiveUp(createNamespace(ctx, clients[0], namespace), "namespace created")
	orGiveUp(defineMachines(ctx, clients, *crd), "custom resource is served by %d apiservers", len(clients))

	var informers []*informer
	for n, client := range clients {
		for _, of := range resources {
			informers = append(informers, startInformer(ctx, fmt.Sprintf("%s of %s", of.Resource, urls[n]), client, of))
		}
	}
	deadline := time.Now().Add(patience)
	for _, informer := range informers {
		for !informer.HasSynced() && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
		}
	}
	synced := time.Now()
	ledger := newLedger()
	quiet := writers{clients: clients, workers: *workers, rate: *calmRate, reading: true}
	say("begin calm")
	began := time.Now()
	quiet.run(ctx, ledger, "calm", *calm)
	took := time.Since(began)
	say("end calm")
	var failed error
	if count := ledger.failures(); count > 0 {
		failed = fmt.Errorf("%d calls failed: %v", count, ledger.errors)
	}
	step(failed, "%d lives without faults by %d writers: %.0f lives/s", *calm, *workers, float64(*calm)/took.Seconds())
	time.Sleep(time.Second)
	latencies(ledger, informers)
	if *lives == 0 {
		os.Exit(min(failures, 1))
	}

	say("begin faults")
	elected, endElections := context.WithCancel(ctx)
	var elections elections
	go func() { step(elections.run(elected, configs), "elections of controllers ended") }()
	stormy := writers{clients: clients, workers: *workers, rate: *rate}
	stormy.run(ctx, ledger, "stormy", *lives)
	say("end faults")
	endElections()
	handovers := len(elections.handovers)
	failed = nil
	if worst := elections.worst(); handovers == 0 || worst > leaseDuration+renewDeadline+5*time.Second || elections.twice {
		failed = fmt.Errorf("the longest took %v; two led at once: %v", worst, elections.twice)
	}
	step(failed, "%d times another controller led, after %v at the latest (lease of %v)",
		handovers, elections.worst().Round(time.Millisecond), leaseDuration)
	say("        %d lives under faults: %d calls failed", *lives, ledger.failures())
	for text, count := range ledger.errors {
		say("        %6d times %s", count, text)
	}

	before := ledger.errorsSoFar()
	say("begin rolling")
	steady := writers{clients: clients, workers: *workers, rate: *rate, reading: true, enough: func() bool {
		_, err := os.Stat(*rolled)
		return err == nil
	}}
	lived := steady.run(ctx, ledger, "rolling", math.MaxInt)
	say("end rolling")
	lost := ledger.errorsSince(before)
	failed = nil
	if len(lost) > 0 && !*lossy {
		failed = fmt.Errorf("%v", lost)
	}
	step(failed, "%d lives while all members were restarted in order: calls that failed: %v", lived, lost)

	for _, informer := range informers {
		size, err := informer.matchesStore(ctx, clients[len(clients)-1])
		step(err, "cache of %s is what a fresh list says: %d objects", informer.name, size)
	}
	watched := time.Since(synced)
	for n, informer := range informers {
		complaints := informer.complaints(ledger)
		// Watch caches begin anew with their apiserver, so its clients have to list then, whatever the store.
		isLeftAlone := n >= len(informers)-len(resources)
		if isLeftAlone && len(informer.gaps) > 0 {
			complaints = append(complaints, fmt.Sprintf("listed %d times more", len(informer.gaps)))
		}
		if isLeftAlone && informer.bookmarks == 0 && watched > 2*bookmarkInterval {
			complaints = append(complaints, "no bookmark arrived")
		}
		if *streams && informer.streamed == 0 {
			complaints = append(complaints, "no list was streamed")
		}
		step(complain(complaints), "%s: %d events, none lost or doubled; %d lists more, %d of all streamed; %d bookmarks",
			informer.name, len(informer.events), len(informer.gaps), informer.streamed, informer.bookmarks)
	}

	last := clients[len(clients)-1]
	orGiveUp(createNamespace(ctx, last, crowd), "namespace created for a crowd")
	orGiveUp(fill(ctx, last, *objects, *workers), "%d objects created", *objects)
	step(pagesUnderWrites(ctx, last, *objects), "5 lists in pages of 500 under writes are each of one moment")
	step(continuedAfterCompaction(ctx, last), "a page after compaction: 410, and its token goes on")
	if failures > 0 {
		os.Exit(1)
	}
}
