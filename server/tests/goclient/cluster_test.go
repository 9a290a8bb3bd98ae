// Package goclient runs programs as users write them, with etcd's own Go client, against three members of
// the server binary that KELSON_BIN names. Any binary with etcd's flags will do, etcd included.
package goclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	members = 3
	// patience bounds everything that should take well under a second on an idle machine.
	patience = 60 * time.Second
	// startAttempts is how often a cluster is started anew because somebody took one of its ports.
	startAttempts = 5
)

// cluster is three running members.
type cluster struct {
	t         *testing.T
	directory string
	endpoints []string
	flags     [members][]string
	processes [members]*exec.Cmd
}

// startCluster starts three members for one test and ends them with it.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Getenv("KELSON_BIN") == "" {
		t.Fatal("KELSON_BIN must name the server binary")
	}
	for attempt := 1; ; attempt++ {
		c := &cluster{t: t, directory: t.TempDir()}
		c.assignPorts()
		for index := range members {
			c.start(index)
		}
		if err := c.waitUntilReady(); err == nil {
			t.Cleanup(c.stop)
			return c
		} else if attempt == startAttempts {
			c.stop()
			t.Fatalf("no cluster after %d attempts: %v\n%s", attempt, err, c.logTails())
		}
		c.stop()
	}
}

func (c *cluster) assignPorts() {
	var clientURLs, peerURLs, initial []string
	for index, listener := range listeners(c.t, 2*members) {
		url := "http://" + listener
		if index < members {
			clientURLs = append(clientURLs, url)
			c.endpoints = append(c.endpoints, listener)
		} else {
			peerURLs = append(peerURLs, url)
			initial = append(initial, fmt.Sprintf("m%d=%s", index-members, url))
		}
	}
	for index := range members {
		name := fmt.Sprintf("m%d", index)
		c.flags[index] = []string{
			"--name=" + name,
			"--data-dir=" + filepath.Join(c.directory, name),
			"--listen-client-urls=" + clientURLs[index],
			"--advertise-client-urls=" + clientURLs[index],
			"--listen-peer-urls=" + peerURLs[index],
			"--initial-advertise-peer-urls=" + peerURLs[index],
			"--initial-cluster=" + strings.Join(initial, ","),
		}
	}
}

// nextPort is where listeners looks on. Below the ports that systems give to clients: a connection of anybody could take
// one of those while its member is down. In the range of compare.sh and of the tests in Rust, which run before and after.
var nextPort = 10_000 + os.Getpid()*997%20_000

// listeners returns loopback addresses that were free a moment ago, none of them twice.
func listeners(t *testing.T, count int) []string {
	t.Helper()
	var addresses []string
	for len(addresses) < count {
		nextPort++
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", nextPort))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses
}

// start runs a member that does not run.
func (c *cluster) start(index int) {
	c.t.Helper()
	log, err := os.OpenFile(c.logPath(index), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	process := exec.Command(os.Getenv("KELSON_BIN"), c.flags[index]...)
	process.Stdout, process.Stderr = log, log
	if err := process.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.processes[index] = process
}

// kill ends a member as kill -9 does.
func (c *cluster) kill(index int) {
	if process := c.processes[index]; process != nil {
		_ = process.Process.Kill()
		_ = process.Wait()
		c.processes[index] = nil
	}
}

func (c *cluster) stop() {
	for index := range members {
		c.kill(index)
	}
}

func (c *cluster) logPath(index int) string {
	return filepath.Join(c.directory, fmt.Sprintf("m%d.log", index))
}

func (c *cluster) logTails() string {
	var tails strings.Builder
	for index := range members {
		text, _ := os.ReadFile(c.logPath(index))
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(&tails, "m%d:\n%s\n", index, strings.Join(lines[max(0, len(lines)-5):], "\n"))
	}
	return tails.String()
}

// waitUntilReady returns once every member has answered a linearizable read.
func (c *cluster) waitUntilReady() error {
	for index := range members {
		client := c.client(index)
		deadline := time.Now().Add(patience)
		for {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err := client.Get(ctx, "ready?")
			cancel()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("member %d is not ready: %w", index, err)
			}
		}
		_ = client.Close()
	}
	return nil
}

// client connects to the members named, or to all of them.
func (c *cluster) client(indexes ...int) *clientv3.Client {
	c.t.Helper()
	endpoints := c.endpoints
	if len(indexes) > 0 {
		endpoints = nil
		for _, index := range indexes {
			endpoints = append(endpoints, c.endpoints[index])
		}
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: patience})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = client.Close() })
	return client
}

// within returns a context for one test.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// must returns the value of a call that must succeed.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// untilDone repeats a call that may meet a member without a leader.
func untilDone(ctx context.Context, t *testing.T, call func(context.Context) error) {
	t.Helper()
	for {
		attempt, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := call(attempt)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(errors.Join(ctx.Err(), err))
		}
	}
}
