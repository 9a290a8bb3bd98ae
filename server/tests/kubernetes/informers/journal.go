package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// What was told of one object at one resource version.
type told struct {
	kind watch.EventType
	name string
	at   int64
	when time.Time
}

// The versions between two lists of an informer: what happened there was never told one by one.
type gap struct{ after, upTo int64 }

// A journal stands between an informer and the apiserver and writes down all that it is told.
type journal struct {
	name     string
	resource resource

	mu        sync.Mutex
	events    []told
	gaps      []gap
	last      int64 // all up to this version has been told
	listed    bool
	bookmarks int
	streamed  int // lists that came as a stream
	expired   int // watches that ended because their version was too old
	problems  []string
}

func version(object any) int64 {
	accessor, err := meta.CommonAccessor(object)
	if err != nil {
		return 0
	}
	number, _ := strconv.ParseInt(accessor.GetResourceVersion(), 10, 64)
	return number
}

func (j *journal) problem(format string, arguments ...any) {
	j.problems = append(j.problems, fmt.Sprintf(format, arguments...))
}

// listedAt: the informer knows the state at this version, however it came there.
func (j *journal) listedAt(at int64) {
	if j.listed {
		j.gaps = append(j.gaps, gap{j.last, at})
	}
	if at < j.last {
		j.problem("a list at %d after events up to %d", at, j.last)
	}
	j.listed, j.last = true, max(at, j.last)
}

func (j *journal) tell(event watch.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch event.Type {
	case watch.Error:
		if status, ok := event.Object.(*metav1.Status); ok && status.Code == 410 {
			j.expired++
		}
		return
	case watch.Bookmark:
		j.bookmarks++
		if at := version(event.Object); at < j.last {
			j.problem("a bookmark at %d after events up to %d", at, j.last)
		} else {
			j.last = at
		}
		return
	}
	accessor, err := meta.Accessor(event.Object)
	if err != nil {
		j.problem("an event without an object: %v", err)
		return
	}
	at := version(event.Object)
	if at <= j.last {
		j.problem("%s %s at %d after all up to %d had been told", event.Type, accessor.GetName(), at, j.last)
	}
	j.last = max(at, j.last)
	j.events = append(j.events, told{event.Type, accessor.GetName(), at, time.Now()})
}

// watched passes events on and writes them down. The events of a list that comes as a stream are in the order of names;
// they end with a bookmark that says so.
func (j *journal) watched(from watch.Interface, isList bool) watch.Interface {
	return watch.Filter(from, func(event watch.Event) (watch.Event, bool) {
		switch {
		case !isList:
			j.tell(event)
		case event.Type == watch.Error:
			j.tell(event)
		case event.Type == watch.Bookmark:
			if object, err := meta.Accessor(event.Object); err == nil &&
				object.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
				j.mu.Lock()
				j.listedAt(version(event.Object))
				j.streamed++
				j.mu.Unlock()
				isList = false
			}
		}
		return event, true
	})
}

// listerWatcher is what the informer is given.
func (j *journal) listerWatcher(client dynamic.Interface) cache.ListerWatcher {
	objects := client.Resource(j.resource.GroupVersionResource).Namespace(namespace)
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list, err := objects.List(ctx, options)
			if err == nil && list.GetContinue() == "" {
				j.mu.Lock()
				j.listedAt(version(list))
				j.mu.Unlock()
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			isList := options.SendInitialEvents != nil && *options.SendInitialEvents
			if !isList {
				j.mu.Lock()
				if from, _ := strconv.ParseInt(options.ResourceVersion, 10, 64); from != j.last {
					j.problem("watches from %d, and all up to %d has been told", from, j.last)
				}
				j.mu.Unlock()
			}
			events, err := objects.Watch(ctx, options)
			if err != nil {
				return nil, err
			}
			return j.watched(events, isList), nil
		},
	}, client)
}

func (j *journal) isInGap(at int64) bool {
	for _, gap := range j.gaps {
		if gap.after < at && at <= gap.upTo {
			return true
		}
	}
	return false
}

// An informer with its journal.
type informer struct {
	*journal
	cache.SharedIndexInformer
}

func startInformer(ctx context.Context, name string, client dynamic.Interface, of resource) *informer {
	journal := &journal{name: name, resource: of}
	inner := cache.NewSharedIndexInformer(journal.listerWatcher(client), nil, 0, cache.Indexers{})
	go inner.RunWithContext(ctx)
	return &informer{journal, inner}
}
