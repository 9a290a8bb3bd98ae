package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
)

const crowd = "crowd" // the namespace of very many objects

// fill creates objects, some at a time.
func fill(ctx context.Context, client dynamic.Interface, count, workers int) error {
	objects := client.Resource(configMaps.GroupVersionResource).Namespace(crowd)
	var next atomic.Int64
	var all sync.WaitGroup
	var failures sync.Map
	for range workers {
		all.Go(func() {
			for n := next.Add(1); n <= int64(count); n = next.Add(1) {
				object := configMaps.object(fmt.Sprintf("one-of-%d", n), 1)
				if _, err := objects.Create(ctx, object, metav1.CreateOptions{}); err != nil {
					failures.Store(err.Error(), n)
				}
			}
		})
	}
	all.Wait()
	var first error
	failures.Range(func(text, _ any) bool { first = errors.New(text.(string)); return false })
	return first
}

// pagesOf lists in pages of 500 and answers the versions of all objects, and that of the list.
func pagesOf(ctx context.Context, objects dynamic.ResourceInterface) (map[string]string, string, error) {
	found := map[string]string{}
	options := metav1.ListOptions{Limit: 500}
	at := ""
	for {
		page, err := objects.List(ctx, options)
		if err != nil {
			return nil, "", err
		}
		if at != "" && page.GetResourceVersion() != at {
			return nil, "", fmt.Errorf("a page at %s in a list at %s", page.GetResourceVersion(), at)
		}
		at = page.GetResourceVersion()
		for _, item := range page.Items {
			if _, twice := found[item.GetName()]; twice {
				return nil, "", fmt.Errorf("%s is on two pages", item.GetName())
			}
			found[item.GetName()] = item.GetResourceVersion()
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return found, at, nil
		}
	}
}

// pagesUnderWrites: the pages of a list are of one moment, whatever is written meanwhile: the same as the whole list at
// that version says.
func pagesUnderWrites(ctx context.Context, client dynamic.Interface, count int) error {
	objects := client.Resource(configMaps.GroupVersionResource).Namespace(crowd)
	churning, stop := context.WithCancel(ctx)
	var churn sync.WaitGroup
	churn.Go(func() {
		for n := 0; churning.Err() == nil; n++ {
			name := fmt.Sprintf("one-of-%d", n%count+1)
			// What becomes of these does not matter: all that they are for is that versions move.
			_ = objects.Delete(churning, name, metav1.DeleteOptions{})
			_, _ = objects.Create(churning, configMaps.object(name, n), metav1.CreateOptions{})
		}
	})
	defer churn.Wait()
	defer stop()
	for range 5 {
		found, at, err := pagesOf(ctx, objects)
		if err != nil {
			return err
		}
		whole, err := objects.List(ctx, metav1.ListOptions{ResourceVersion: at, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
		if err != nil {
			return err
		}
		if len(whole.Items) != len(found) {
			return fmt.Errorf("%d objects on pages, %d in the whole list at %s", len(found), len(whole.Items), at)
		}
		for _, item := range whole.Items {
			if found[item.GetName()] != item.GetResourceVersion() {
				return fmt.Errorf("%s at %s in the list, at %q on a page", item.GetName(), item.GetResourceVersion(), found[item.GetName()])
			}
		}
	}
	return nil
}

// continuedAfterCompaction: a token of a compacted list is refused with 410 and another one, which goes on where the
// first would have, as of now.
func continuedAfterCompaction(ctx context.Context, client dynamic.Interface) error {
	objects := client.Resource(configMaps.GroupVersionResource).Namespace(crowd)
	first, err := objects.List(ctx, metav1.ListOptions{Limit: 500})
	if err != nil {
		return err
	}
	token := first.GetContinue()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		// Something has to happen, or there is nothing to compact.
		name := "one-of-1"
		_ = objects.Delete(ctx, name, metav1.DeleteOptions{})
		_, _ = objects.Create(ctx, configMaps.object(name, 0), metav1.CreateOptions{})
		_, err := objects.List(ctx, metav1.ListOptions{Limit: 500, Continue: token})
		var status apierrors.APIStatus
		if errors.As(err, &status) && status.Status().Code == 410 {
			token = status.Status().Continue
			break
		}
		if err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("nothing was compacted")
		}
		time.Sleep(time.Second)
	}
	if token == "" {
		return errors.New("410 without a token to go on with")
	}
	seen := []string{}
	for token != "" {
		page, err := objects.List(ctx, metav1.ListOptions{Limit: 500, Continue: token})
		if err != nil {
			return fmt.Errorf("the token of the 410: %w", err)
		}
		for _, item := range page.Items {
			seen = append(seen, item.GetName())
		}
		token = page.GetContinue()
	}
	last := first.Items[len(first.Items)-1].GetName()
	if !slices.IsSorted(seen) || len(seen) == 0 || seen[0] <= last {
		return fmt.Errorf("%d objects after %s, the first %v", len(seen), last, seen[:min(1, len(seen))])
	}
	return nil
}
