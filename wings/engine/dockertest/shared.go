package dockertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

// HostVariable names an engine that the test command started for every package. Without it each
// test process starts one of its own.
const HostVariable = "MAMBA_TEST_DOCKER_HOST"

// shared is the one daemon of this test process, started by the first test that needs it.
var shared struct {
	sync.Mutex
	process *Process
}

// Main runs the tests of a package that uses Daemon, and stops what it started:
//
//	func TestMain(m *testing.M) { os.Exit(dockertest.Main(m)) }
//
// It answers 1 when the tests passed but the daemon could not be cleaned up.
func Main(m *testing.M) int {
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.process == nil {
		return code
	}
	if err := shared.process.close(); err != nil {
		fmt.Fprintf(os.Stderr, "dockertest: stop the shared dockerd: %v\n", err)
		return max(code, 1)
	}
	shared.process = nil
	return code
}

// Daemon is the address of the engine that all tests of the process share: HostVariable when that
// is set, else a dockerd in the test's own network namespace, so that published ports can be
// reached. The package's TestMain must call Main.
func Daemon(t testing.TB) string {
	t.Helper()
	if host := os.Getenv(HostVariable); host != "" {
		return host
	}
	shared.Lock()
	defer shared.Unlock()
	if shared.process == nil {
		p, err := start(Options{HostNetwork: true})
		if err != nil {
			t.Fatalf("start the shared dockerd: %v", err)
		}
		shared.process = p
	}
	return shared.process.Host()
}

// Client of host, closed when t ends.
func Client(t testing.TB, host string) *client.Client {
	t.Helper()
	cli, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatalf("client of %s: %v", host, err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// cleanTimeout bounds how long AssertClean waits for what is being removed.
const cleanTimeout = 10 * time.Second

// AssertClean fails t when the engine still has a container or a network whose label key has the
// value, e.g. engine.LabelNode and the node that t used. It removes what it reports, so that one
// leak is one failure. Call it in a cleanup that runs after the ones that remove things.
func AssertClean(t testing.TB, host, key, value string) {
	t.Helper()
	cli, err := client.New(client.WithHost(host))
	if err != nil {
		t.Errorf("client of %s: %v", host, err)
		return
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	var left []string
	err = poll(ctx, func() (bool, error) {
		var err error
		left, err = leftovers(ctx, cli, key+"="+value)
		return len(left) == 0, err
	})
	if err == nil {
		return
	}
	t.Errorf("left behind with %s=%s: %s (%v)", key, value, strings.Join(left, ", "), err)
	if err := removeLeftovers(cli, key+"="+value); err != nil {
		t.Errorf("remove what was left behind: %v", err)
	}
}

func leftovers(ctx context.Context, cli *client.Client, label string) ([]string, error) {
	filter := make(client.Filters).Add("label", label)
	containers, err := cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filter})
	if err != nil {
		return nil, err
	}
	networks, err := cli.NetworkList(ctx, client.NetworkListOptions{Filters: filter})
	if err != nil {
		return nil, err
	}
	var left []string
	for _, c := range containers.Items {
		left = append(left, "container "+strings.Join(c.Names, ","))
	}
	for _, n := range networks.Items {
		left = append(left, "network "+n.Name)
	}
	return left, nil
}

func removeLeftovers(cli *client.Client, label string) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	filter := make(client.Filters).Add("label", label)
	containers, err := cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filter})
	errs := []error{err}
	for _, c := range containers.Items {
		_, err := cli.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		errs = append(errs, err)
	}
	networks, err := cli.NetworkList(ctx, client.NetworkListOptions{Filters: filter})
	errs = append(errs, err)
	for _, n := range networks.Items {
		_, err := cli.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
