package goclient

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func session(t *testing.T, client *clientv3.Client, ttlSeconds int) *concurrency.Session {
	t.Helper()
	return must(concurrency.NewSession(client, concurrency.WithTTL(ttlSeconds), concurrency.WithContext(t.Context())))(t)
}

func TestMutexLetsInOneAtATime(t *testing.T) {
	c, ctx := startCluster(t), within(t)
	const rounds = 10
	var holders, entries int // guarded by the mutex under test
	var workers sync.WaitGroup
	for index := range members {
		client := c.client(index)
		workers.Go(func() {
			session := session(t, client, 60)
			mutex := concurrency.NewMutex(session, "mutex")
			for range rounds {
				if err := mutex.Lock(ctx); err != nil {
					t.Error(err)
					return
				}
				if holders++; holders != 1 {
					t.Errorf("%d hold the mutex", holders)
				}
				entries++
				holders--
				if err := mutex.Unlock(ctx); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	if entries != members*rounds {
		t.Errorf("%d entries, want %d", entries, members*rounds)
	}
}

func TestMutexOfADeadHolderPassesOn(t *testing.T) {
	c, ctx := startCluster(t), within(t)
	dying, next := session(t, c.client(0), 2), session(t, c.client(1), 60)
	first, second := concurrency.NewMutex(dying, "mutex"), concurrency.NewMutex(next, "mutex")
	if err := first.Lock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := second.TryLock(ctx); err != concurrency.ErrLocked {
		t.Fatalf("try lock of a held mutex: %v", err)
	}
	// Stops the keep-alives and leaves the lease to its fate.
	dying.Orphan()
	if err := second.Lock(ctx); err != nil {
		t.Fatal(err)
	}
	if reply := must(c.client(2).Get(ctx, first.Key()))(t); reply.Count != 0 {
		t.Fatal("the dead holder's key is there")
	}
}

func TestElectionPassesFromLeaderToLeader(t *testing.T) {
	c, ctx := startCluster(t), within(t)
	first := concurrency.NewElection(session(t, c.client(0), 60), "election")
	second := concurrency.NewElection(session(t, c.client(1), 60), "election")
	observer := concurrency.NewElection(session(t, c.client(2), 60), "election")
	if _, err := observer.Leader(ctx); err != concurrency.ErrElectionNoLeader {
		t.Fatalf("leader of nobody: %v", err)
	}
	if err := first.Campaign(ctx, "first"); err != nil {
		t.Fatal(err)
	}
	observing, stop := context.WithCancel(ctx)
	defer stop()
	observed := observer.Observe(observing)
	expectLeader := func(want string) {
		t.Helper()
		select {
		case response := <-observed:
			if value := string(response.Kvs[0].Value); value != want {
				t.Fatalf("observed %q, want %q", value, want)
			}
		case <-ctx.Done():
			t.Fatalf("%q is not observed", want)
		}
	}
	expectLeader("first")
	elected := make(chan error, 1)
	go func() { elected <- second.Campaign(ctx, "second") }()
	if err := first.Proclaim(ctx, "first, still"); err != nil {
		t.Fatal(err)
	}
	expectLeader("first, still")
	select {
	case err := <-elected:
		t.Fatalf("a second leader: %v", err)
	default:
	}
	if err := first.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-elected; err != nil {
		t.Fatal(err)
	}
	expectLeader("second")
	if leader := must(observer.Leader(ctx))(t); string(leader.Kvs[0].Value) != "second" {
		t.Fatalf("leader %v", leader.Kvs)
	}
	if err := first.Proclaim(ctx, "no more"); err == nil {
		t.Fatal("one who resigned proclaims")
	}
}

func TestSoftwareTransactionsMoveMoneyWithoutLosingAny(t *testing.T) {
	c, ctx := startCluster(t), within(t)
	const accounts, opening, transfers = 5, 100, 20
	name := func(n int) string { return "account/" + strconv.Itoa(n) }
	for n := range accounts {
		must(c.client().Put(ctx, name(n), strconv.Itoa(opening)))(t)
	}
	levels := []concurrency.Isolation{
		concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.SerializableSnapshot,
	}
	var workers sync.WaitGroup
	for index := range members {
		client := c.client(index)
		workers.Go(func() {
			for n := range transfers {
				from, to := name((n+index)%accounts), name((n+2*index+1)%accounts)
				if from == to {
					continue
				}
				_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
					source, err := strconv.Atoi(stm.Get(from))
					if err != nil {
						return err
					}
					target, err := strconv.Atoi(stm.Get(to))
					if err != nil {
						return err
					}
					stm.Put(from, strconv.Itoa(source-1))
					stm.Put(to, strconv.Itoa(target+1))
					return nil
				}, concurrency.WithIsolation(levels[index]), concurrency.WithAbortContext(ctx))
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	sum := 0
	for _, kv := range must(c.client().Get(ctx, "account/", clientv3.WithPrefix()))(t).Kvs {
		sum += must(strconv.Atoi(string(kv.Value)))(t)
	}
	if sum != accounts*opening {
		t.Errorf("%d in all accounts, want %d", sum, accounts*opening)
	}
}

func TestSessionEndsWhenItsLeaseIsRevoked(t *testing.T) {
	c, ctx := startCluster(t), within(t)
	client := c.client()
	session := session(t, client, 5)
	must(client.Revoke(ctx, session.Lease()))(t)
	select {
	case <-session.Done():
	case <-time.After(patience):
		t.Fatal("the session goes on without its lease")
	}
}
