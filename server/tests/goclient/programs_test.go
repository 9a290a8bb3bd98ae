package goclient

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

// settings is a configuration that follows its keys: read once, then watched.
type settings struct {
	values  map[string]string
	updates clientv3.WatchChan
}

func loadSettings(ctx context.Context, client *clientv3.Client, prefix string) (*settings, error) {
	read, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	loaded := &settings{values: map[string]string{}}
	for _, kv := range read.Kvs {
		loaded.values[string(kv.Key)] = string(kv.Value)
	}
	loaded.updates = client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(read.Header.Revision+1))
	return loaded, nil
}

// follow applies updates until it has seen the given revision.
func (s *settings) follow(revision int64) error {
	for response := range s.updates {
		if err := response.Err(); err != nil {
			return err
		}
		for _, event := range response.Events {
			if event.Type == clientv3.EventTypeDelete {
				delete(s.values, string(event.Kv.Key))
			} else {
				s.values[string(event.Kv.Key)] = string(event.Kv.Value)
			}
			if event.Kv.ModRevision >= revision {
				return nil
			}
		}
	}
	return fmt.Errorf("the watch ended before revision %d", revision)
}

func TestConfigurationFollowsItsKeysOnEveryMember(t *testing.T) {
	c, ctx := startCluster(t), within(t)
	writer := c.client()
	must(writer.Put(ctx, "app/color", "red"))(t)
	must(writer.Put(ctx, "app/size", "1"))(t)
	must(writer.Put(ctx, "other/color", "blue"))(t)
	var readers []*settings
	for index := range members {
		reader := must(loadSettings(ctx, c.client(index), "app/"))(t)
		if want := map[string]string{"app/color": "red", "app/size": "1"}; !maps.Equal(reader.values, want) {
			t.Fatalf("member %d loads %v", index, reader.values)
		}
		readers = append(readers, reader)
	}
	must(writer.Put(ctx, "app/color", "green"))(t)
	must(writer.Put(ctx, "other/color", "yellow"))(t)
	must(writer.Delete(ctx, "app/size"))(t)
	last := must(writer.Put(ctx, "app/name", "k"))(t).Header.Revision
	for index, reader := range readers {
		if err := reader.follow(last); err != nil {
			t.Fatal(err)
		}
		if want := map[string]string{"app/color": "green", "app/name": "k"}; !maps.Equal(reader.values, want) {
			t.Errorf("member %d follows to %v", index, reader.values)
		}
	}
}

// tryLock takes a lock by hand: a key that exists for as long as the lease does.
func tryLock(ctx context.Context, client *clientv3.Client, key string, lease clientv3.LeaseID) (bool, error) {
	reply, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, "held", clientv3.WithLease(lease))).
		Else(clientv3.OpGet(key)).
		Commit()
	if err != nil {
		return false, err
	}
	return reply.Succeeded, nil
}

func TestLockOfLeaseAndTxnIsHeldByOneAndFreedByRevoke(t *testing.T) {
	c, ctx := startCluster(t), within(t)
	first, second := c.client(0), c.client(1)
	lease := must(first.Grant(ctx, 5))(t).ID
	renewals := must(first.KeepAlive(ctx, lease))(t)
	if !must(tryLock(ctx, first, "lock", lease))(t) {
		t.Fatal("a free lock is not taken")
	}
	other := must(second.Grant(ctx, 60))(t).ID
	if must(tryLock(ctx, second, "lock", other))(t) {
		t.Fatal("a held lock is taken")
	}
	for range 3 {
		if renewal, open := <-renewals; !open || renewal.TTL != 5 {
			t.Fatalf("keep-alive: %v, open: %v", renewal, open)
		}
	}
	freed := second.Watch(ctx, "lock", clientv3.WithFilterPut())
	must(first.Revoke(ctx, lease))(t)
	if response := <-freed; len(response.Events) != 1 || response.Events[0].Type != clientv3.EventTypeDelete {
		t.Fatalf("the end of the lease is not seen: %v", response)
	}
	for range renewals {
		// Ends because the lease is gone.
	}
	if !must(tryLock(ctx, second, "lock", other))(t) {
		t.Fatal("the freed lock is not taken")
	}
}

func TestLeaseThatIsNotKeptAliveFreesTheLock(t *testing.T) {
	c, ctx := startCluster(t), within(t)
	client := c.client()
	lease := must(client.Grant(ctx, 2))(t).ID
	read := must(client.Get(ctx, "lock"))(t)
	must(tryLock(ctx, client, "lock", lease))(t)
	for response := range client.Watch(ctx, "lock", clientv3.WithRev(read.Header.Revision+1)) {
		for _, event := range response.Events {
			if event.Type == clientv3.EventTypeDelete {
				return
			}
		}
	}
	t.Fatal("the watch ended without a deletion")
}

func TestNamespaceHidesItsPrefixAndTheRest(t *testing.T) {
	c, ctx := startCluster(t), within(t)
	client := c.client()
	kv := namespace.NewKV(client.KV, "inner/")
	watcher := namespace.NewWatcher(client.Watcher, "inner/")
	must(client.Put(ctx, "outer", "o"))(t)
	start := must(kv.Put(ctx, "k", "1"))(t).Header.Revision
	must(client.Put(ctx, "inner/l", "2"))(t)
	all := must(kv.Get(ctx, "", clientv3.WithPrefix()))(t)
	if all.Count != 2 || string(all.Kvs[0].Key) != "k" || string(all.Kvs[1].Key) != "l" {
		t.Fatalf("the namespace holds %v", all.Kvs)
	}
	updates := watcher.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(start))
	var watched []string
	for len(watched) < 2 {
		response, open := <-updates
		if !open {
			t.Fatal("the watch ended")
		}
		for _, event := range response.Events {
			watched = append(watched, string(event.Kv.Key))
		}
	}
	if !slices.Equal(watched, []string{"k", "l"}) {
		t.Fatalf("the namespace shows %v", watched)
	}
	reply := must(kv.Txn(ctx).
		If(clientv3.Compare(clientv3.Value("k"), "=", "1")).
		Then(clientv3.OpDelete("", clientv3.WithPrefix())).
		Commit())(t)
	if !reply.Succeeded || reply.Responses[0].GetResponseDeleteRange().Deleted != 2 {
		t.Fatalf("txn in the namespace: %v", reply)
	}
	if rest := must(client.Get(ctx, "", clientv3.WithPrefix()))(t); rest.Count != 1 {
		t.Fatalf("left: %v", rest.Kvs)
	}
}

func TestMirrorCopiesWhatIsThereAndWhatComes(t *testing.T) {
	c, ctx := startCluster(t), within(t)
	client := c.client()
	const pairs = 2500 // more than two pages of the syncer
	for start := 0; start < pairs; start += 100 {
		var puts []clientv3.Op
		for n := start; n < start+100; n++ {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("src/%05d", n), fmt.Sprint(n)))
		}
		must(client.Txn(ctx).Then(puts...).Commit())(t)
	}
	must(client.Put(ctx, "other", ""))(t)
	syncer := mirror.NewSyncer(client, "src/", 0)
	copied := map[string]string{}
	base, failures := syncer.SyncBase(ctx)
	for page := range base {
		for _, kv := range page.Kvs {
			copied[string(kv.Key)] = string(kv.Value)
		}
	}
	if err := <-failures; err != nil {
		t.Fatal(err)
	}
	if len(copied) != pairs || copied["src/02499"] != "2499" {
		t.Fatalf("copied %d pairs", len(copied))
	}
	updates := syncer.SyncUpdates(ctx)
	must(client.Put(ctx, "src/new", "n"))(t)
	last := must(client.Delete(ctx, "src/00000"))(t).Header.Revision
	for response := range updates {
		if err := response.Err(); err != nil {
			t.Fatal(err)
		}
		for _, event := range response.Events {
			if event.Type == clientv3.EventTypeDelete {
				delete(copied, string(event.Kv.Key))
			} else {
				copied[string(event.Kv.Key)] = string(event.Kv.Value)
			}
			if event.Kv.ModRevision == last {
				if _, there := copied["src/00000"]; there || copied["src/new"] != "n" || len(copied) != pairs {
					t.Fatal("the copy does not follow")
				}
				return
			}
		}
	}
	t.Fatal("the updates ended")
}

func TestOrderingNeverLetsAClientReadBackInTime(t *testing.T) {
	c, ctx := startCluster(t), within(t)
	client := c.client()
	kv := ordering.NewKV(client.KV, ordering.NewOrderViolationSwitchEndpointClosure(client))
	var writers sync.WaitGroup
	done, stop := context.WithCancel(ctx)
	writers.Go(func() {
		for n := 0; done.Err() == nil; n++ {
			_, _ = client.Put(done, "k", fmt.Sprint(n))
		}
	})
	newest := int64(0)
	for range 300 {
		// Serializable reads through changing members may lag; the wrapper must not pass that on.
		read, err := kv.Get(ctx, "k", clientv3.WithSerializable())
		if err == ordering.ErrNoGreaterRev {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if read.Header.Revision < newest {
			t.Fatalf("revision %d after %d", read.Header.Revision, newest)
		}
		newest = read.Header.Revision
	}
	stop()
	writers.Wait()
	if newest == 0 {
		t.Fatal("no read succeeded")
	}
}

func TestWatchSurvivesTheMemberItIsOn(t *testing.T) {
	c, ctx := startCluster(t), within(t)
	// Watches through the first member until that dies, then through the second.
	watching := c.client(0, 1)
	watching.SetEndpoints(c.endpoints[0])
	updates := watching.Watch(clientv3.WithRequireLeader(ctx), "k")
	writer := c.client(1, 2)
	const before, after = 20, 20
	first := int64(0)
	put := func(n int) {
		untilDone(ctx, t, func(attempt context.Context) error {
			reply, err := writer.Put(attempt, "k", fmt.Sprint(n))
			if err == nil && first == 0 {
				first = reply.Header.Revision
			}
			return err
		})
	}
	// The watch starts now, so the first event is of the first put after its creation.
	must(watching.Get(ctx, "k"))(t)
	seen := make(chan string, 10*(before+after))
	go func() {
		defer close(seen)
		last, value := int64(0), ""
		for response := range updates {
			for _, event := range response.Events {
				if event.Kv.ModRevision <= last {
					t.Errorf("revision %d after %d", event.Kv.ModRevision, last)
				}
				last = event.Kv.ModRevision
				// A put that was answered with an error may still have happened, and then happens again.
				if next := string(event.Kv.Value); next != value {
					value = next
					seen <- value
				}
			}
		}
	}()
	waitForWatch(ctx, t, writer, seen)
	for n := range before {
		put(n)
	}
	for n := range before {
		expect(ctx, t, seen, fmt.Sprint(n))
	}
	c.kill(0)
	watching.SetEndpoints(c.endpoints...)
	for n := before; n < before+after; n++ {
		put(n)
	}
	for n := before; n < before+after; n++ {
		expect(ctx, t, seen, fmt.Sprint(n))
	}
}

// waitForWatch puts until the watch sees it: only then has the server accepted it.
func waitForWatch(ctx context.Context, t *testing.T, client *clientv3.Client, seen <-chan string) {
	t.Helper()
	last := ""
	for n := 0; ; n++ {
		last = fmt.Sprintf("created? %d", n)
		must(client.Put(ctx, "k", last))(t)
		select {
		case value := <-seen:
			for value != last {
				value = <-seen
			}
			return
		default:
		}
	}
}

func expect(ctx context.Context, t *testing.T, seen <-chan string, want string) {
	t.Helper()
	select {
	case value := <-seen:
		if value != want {
			t.Fatalf("the watch shows %q, want %q", value, want)
		}
	case <-ctx.Done():
		t.Fatalf("the watch does not show %q", want)
	}
}
