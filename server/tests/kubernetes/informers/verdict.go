package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// complaints holds an informer's journal against what writers did: all that was acknowledged was told once, at the version
// that the writer was told, unless a list stands for it; and nothing was told that nobody did.
func (j *journal) complaints(ledger *ledger) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	ledger.mu.Lock()
	defer ledger.mu.Unlock()
	complaints := slices.Clone(j.problems)
	done, uncertain := ledger.done[j.resource.Resource], ledger.uncertain[j.resource.Resource]
	times := map[change]int{}
	for _, event := range j.events {
		if event.name == "kube-root-ca.crt" { // a controller's
			continue
		}
		change := change{event.kind, event.name}
		times[change]++
		outcome, known := done[change]
		switch {
		case times[change] == 2:
			complaints = append(complaints, fmt.Sprintf("%s %s was told twice", event.kind, event.name))
		case !known && !uncertain[event.name]:
			complaints = append(complaints, fmt.Sprintf("%s %s was told, and nobody did it", event.kind, event.name))
		case known && event.kind != watch.Deleted && outcome.at != event.at:
			complaints = append(complaints,
				fmt.Sprintf("%s %s was told at %d, and done at %d", event.kind, event.name, event.at, outcome.at))
		}
	}
	for change, outcome := range done {
		// A deletion's version is not known: it is after the update's.
		if times[change] == 0 && !j.isInGap(outcome.at) && !(change.kind == watch.Deleted && len(j.gaps) > 0) {
			complaints = append(complaints, fmt.Sprintf("%s %s at %d was never told", change.kind, change.name, outcome.at))
		}
	}
	return complaints
}

// contents: the version of each object.
func contents(list []any) map[string]string {
	found := map[string]string{}
	for _, object := range list {
		if accessor, err := meta.Accessor(object); err == nil {
			found[accessor.GetName()] = accessor.GetResourceVersion()
		}
	}
	return found
}

// matchesStore: the cache is what a fresh list says. It has a while to get there.
func (i *informer) matchesStore(ctx context.Context, client dynamic.Interface) (int, error) {
	list, err := client.Resource(i.resource.GroupVersionResource).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	fresh := map[string]string{}
	for _, item := range list.Items {
		fresh[item.GetName()] = item.GetResourceVersion()
	}
	deadline := time.Now().Add(patience)
	for {
		cached := contents(i.GetStore().List())
		if maps.Equal(cached, fresh) {
			return len(fresh), nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("the cache holds %d objects, the store %d", len(cached), len(fresh))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// at: the smallest duration that is not below this share of all. Sorts them.
func at(share float64, all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(int(share*float64(len(all))), len(all)-1)]
}

// latencies: one line for each kind of call, in the columns of the table in docs.
func latencies(ledger *ledger, informers []*informer) {
	ledger.mu.Lock()
	defer ledger.mu.Unlock()
	by := maps.Clone(ledger.reads)
	for _, done := range ledger.done {
		for change, outcome := range done {
			kind := map[watch.EventType]string{watch.Added: "create", watch.Modified: "update", watch.Deleted: "delete"}[change.kind]
			by[kind] = append(by[kind], outcome.took)
		}
	}
	for _, informer := range informers {
		informer.mu.Lock()
		for _, event := range informer.events {
			if outcome, known := ledger.done[informer.resource.Resource][change{event.kind, event.name}]; known {
				by["watch delivery"] = append(by["watch delivery"], event.when.Sub(outcome.sent))
			}
		}
		informer.mu.Unlock()
	}
	say("latency | calls | p50 ms | p99 ms | max ms")
	for _, kind := range slices.Sorted(maps.Keys(by)) {
		ms := func(share float64) float64 { return float64(at(share, by[kind]).Microseconds()) / 1000 }
		say("latency %s | %d | %.1f | %.1f | %.1f", kind, len(by[kind]), ms(0.5), ms(0.99), ms(1))
	}
}
