package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// As controllers have them, but quicker.
const (
	leaseDuration = 4 * time.Second
	renewDeadline = 3 * time.Second
	retryPeriod   = 500 * time.Millisecond
)

// Controllers of which one leads. Whoever leads is stopped without a word, again and again, and the next one has to
// lead when the lease is over.
type elections struct {
	mu        sync.Mutex
	handovers []time.Duration
	leading   int // how many think that they lead
	twice     bool
}

func (e *elections) run(ctx context.Context, configs []*rest.Config) error {
	led := make(chan struct{}, 16)
	candidates := make(map[string]context.CancelFunc)
	var leader string
	stand := func(n int) error {
		client, err := coordination.NewForConfig(configs[n%len(configs)])
		if err != nil {
			return err
		}
		identity := fmt.Sprintf("controller-%d", n)
		living, stop := context.WithCancel(ctx)
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Name: "controllers", Namespace: namespace},
				Client:     client,
				LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
			},
			LeaseDuration: leaseDuration,
			RenewDeadline: renewDeadline,
			RetryPeriod:   retryPeriod,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) {
					e.mu.Lock()
					e.leading++
					e.twice = e.twice || e.leading > 1
					leader = identity
					e.mu.Unlock()
					led <- struct{}{}
				},
				OnStoppedLeading: func() {
					e.mu.Lock()
					if leader == identity {
						e.leading--
						leader = ""
					}
					e.mu.Unlock()
				},
			},
		})
		if err != nil {
			stop()
			return err
		}
		candidates[identity] = stop
		go elector.Run(living)
		return nil
	}
	for n := range 2 {
		if err := stand(n); err != nil {
			return err
		}
	}
	stopped := time.Now()
	for n := 2; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-led:
		}
		e.mu.Lock()
		if n > 2 {
			e.handovers = append(e.handovers, time.Since(stopped))
		}
		stop := candidates[leader]
		e.mu.Unlock()
		if err := stand(n); err != nil {
			return err
		}
		stopped = time.Now()
		if stop != nil {
			stop()
		}
	}
}

// worst is the longest time without a leader.
func (e *elections) worst() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return at(1, e.handovers)
}
