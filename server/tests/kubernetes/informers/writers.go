package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// One change of one object; every object is created, updated and deleted at most once.
type change struct {
	kind watch.EventType
	name string
}

// What became of a change.
type outcome struct {
	at   int64 // its resource version; a deletion's is not told
	sent time.Time
	took time.Duration
}

// Everything that writers did, and what they did not learn.
type ledger struct {
	mu        sync.Mutex
	done      map[string]map[change]outcome // by resource
	uncertain map[string]map[string]bool    // names of which a call had no known outcome
	errors    map[string]int                // by what the apiserver said
	reads     map[string][]time.Duration    // by kind of read
}

func newLedger() *ledger {
	return &ledger{
		done:      map[string]map[change]outcome{},
		uncertain: map[string]map[string]bool{},
		errors:    map[string]int{},
		reads:     map[string][]time.Duration{},
	}
}

func (l *ledger) succeeded(of resource, change_ change, outcome_ outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done[of.Resource] == nil {
		l.done[of.Resource] = map[change]outcome{}
	}
	l.done[of.Resource][change_] = outcome_
}

func (l *ledger) failed(of resource, name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.uncertain[of.Resource] == nil {
		l.uncertain[of.Resource] = map[string]bool{}
	}
	l.uncertain[of.Resource][name] = true
	l.errors[class(err)]++
}

// class of an error: what the apiserver said, if it was one that said it, but for the addresses of a connection.
func class(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		message, _, _ := strings.Cut(status.Status().Message, ": read tcp")
		return fmt.Sprintf("HTTP %d %.100s", status.Status().Code, message)
	}
	return "no answer from the apiserver"
}

// How many calls failed, for whatever reason.
func (l *ledger) failures() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	total := 0
	for _, count := range l.errors {
		total += count
	}
	return total
}

// errorsSince: what the apiservers said more often than in this copy of the errors, and how often.
func (l *ledger) errorsSince(before map[string]int) map[string]int {
	since := map[string]int{}
	l.mu.Lock()
	defer l.mu.Unlock()
	for text, count := range l.errors {
		if more := count - before[text]; more > 0 {
			since[text] = more
		}
	}
	return since
}

func (l *ledger) errorsSoFar() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.errors)
}

// Lives of objects, from many writers at once, each call through one of the apiservers.
type writers struct {
	clients []dynamic.Interface
	workers int
	rate    int // lives begun in a second; 0: as many as can be
	reading bool
	enough  func() bool // ends the run before all lives are lived; nil: nothing does
}

func (w writers) client() dynamic.Interface { return w.clients[rand.IntN(len(w.clients))] }

// live creates, updates and deletes an object. One in ten stays.
func (w writers) live(ctx context.Context, ledger *ledger, of resource, name string, stays bool) {
	objects := func() dynamic.ResourceInterface {
		return w.client().Resource(of.GroupVersionResource).Namespace(namespace)
	}
	write := func(kind watch.EventType, call func() (*unstructured.Unstructured, error)) *unstructured.Unstructured {
		sent := time.Now()
		answer, err := call()
		if err != nil {
			ledger.failed(of, name, err)
			return nil
		}
		ledger.succeeded(of, change{kind, name}, outcome{version(answer), sent, time.Since(sent)})
		return answer
	}
	created := write(watch.Added, func() (*unstructured.Unstructured, error) {
		return objects().Create(ctx, of.object(name, 1), metav1.CreateOptions{})
	})
	if created == nil {
		return
	}
	if w.reading {
		ledger.read("get", func() error {
			_, err := objects().Get(ctx, name, metav1.GetOptions{})
			return err
		})
	}
	next := of.object(name, 2)
	next.SetResourceVersion(created.GetResourceVersion())
	updated := write(watch.Modified, func() (*unstructured.Unstructured, error) {
		return objects().Update(ctx, next, metav1.UpdateOptions{})
	})
	if updated == nil || stays {
		return
	}
	write(watch.Deleted, func() (*unstructured.Unstructured, error) {
		return updated, objects().Delete(ctx, name, metav1.DeleteOptions{})
	})
}

func (l *ledger) read(kind string, call func() error) {
	began := time.Now()
	err := call()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.errors[class(err)]++
		return
	}
	l.reads[kind] = append(l.reads[kind], time.Since(began))
}

// run lets objects of each resource live, and answers how many; names begin with the prefix.
func (w writers) run(ctx context.Context, ledger *ledger, prefix string, lives int) int {
	next := make(chan int)
	lived := 0
	go func() {
		defer close(next)
		began := time.Now()
		for n := range lives {
			if w.enough != nil && w.enough() {
				return
			}
			if w.rate > 0 {
				time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(w.rate))))
			}
			next <- n
			lived = n + 1
			if n%1000 == 999 {
				say("        %d lives, %d calls failed", n+1, ledger.failures())
			}
		}
	}()
	var all sync.WaitGroup
	for range w.workers {
		all.Go(func() {
			for n := range next {
				of := resources[n%len(resources)]
				w.live(ctx, ledger, of, fmt.Sprintf("%s-%d", prefix, n), n/len(resources)%10 == 0)
				if w.reading && n%10 == 0 {
					ledger.read("list", func() error {
						objects := w.client().Resource(of.GroupVersionResource).Namespace(namespace)
						_, err := objects.List(ctx, metav1.ListOptions{Limit: 500})
						return err
					})
				}
			}
		})
	}
	all.Wait()
	return lived
}
