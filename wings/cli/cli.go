// Package cli is the command line of the node daemon. Two binaries offer it: wings itself, and
// mambahost for its own machine.
//
// It owns flags and the order in which the parts of a node start and stop. It refuses to hold
// behaviour. Its one invariant: ending the daemon, in whatever way, ends no game.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mambahost/mamba/blueprints/render"
	"github.com/mambahost/mamba/wings/agent"
	"github.com/mambahost/mamba/wings/demo"
	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/link"
	"github.com/mambahost/mamba/wings/wire"
)

const usage = `wings runs game servers on this machine for a Mamba Host panel.

  wings join URL --token TOKEN [--dir DIR]   become a node; the panel shows the whole command
  wings run [--dir DIR]                      run the daemon
  wings version

`

// DefaultDir holds a node's identity, its servers and their data.
const DefaultDir = "/var/lib/mamba/wings"

// Main runs the command in args and returns the exit code: 0 done, 1 failed, 2 misused.
func Main(args []string, version string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command(ctx, args, version)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	if game := new(demo.ExitError); errors.As(err, &game) {
		return game.Code
	}
	fmt.Fprintln(os.Stderr, "wings:", err)
	return 1
}

var errUsage = errors.New("usage")

func command(ctx context.Context, args []string, version string) error {
	if len(args) == 0 {
		return errUsage
	}
	switch rest := args[1:]; args[0] {
	case "join":
		return join(ctx, rest, version, os.Stdout)
	case "run":
		return run(ctx, rest, version)
	case demo.ServerCommand: // what the demo image runs
		return demo.Run(ctx, rest, os.Stdin, os.Stdout)
	case demo.InstallCommand:
		return demo.Install(ctx, rest, os.Stdout)
	case "version", "--version":
		fmt.Println("wings", version)
		return nil
	}
	return errUsage
}

// flags returns a flag set with --dir.
func flags(name string) (*flag.FlagSet, *string) {
	f := flag.NewFlagSet("wings "+name, flag.ContinueOnError)
	unset := os.Getenv("MAMBA_WINGS_DIR")
	if unset == "" {
		unset = DefaultDir
	}
	return f, f.String("dir", unset, "where identity, servers and their data are kept (MAMBA_WINGS_DIR)")
}

func join(ctx context.Context, args []string, version string, out io.Writer) error {
	f, dir := flags("join")
	token := f.String("token", "", "the join token that the panel shows")
	// The URL may stand before the flags, as the panel prints it.
	var url string
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		url, args = args[0], args[1:]
	}
	if err := f.Parse(args); err != nil {
		return errUsage
	}
	if url == "" {
		url = f.Arg(0)
	}
	if url == "" || *token == "" {
		return errUsage
	}
	path, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	id, err := link.Join(ctx, url, *token, path, version)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "This machine is node %s now. Start it with: wings run --dir %s\n", id, path)
	return nil
}

// run is the daemon. It ends with ctx; games go on.
func run(ctx context.Context, args []string, version string) error {
	f, dir := flags("run")
	pool := f.String("network-pool", engine.DefaultNetworkPool.String(), "where the tenants' private networks come from")
	if err := f.Parse(args); err != nil || f.NArg() > 0 {
		return errUsage
	}
	path, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	prefix, err := netip.ParsePrefix(*pool)
	if err != nil {
		return fmt.Errorf("--network-pool: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	n, err := open(path, version, prefix, log)
	if err != nil {
		return err
	}
	defer n.close()
	if err := n.agent.Start(ctx); err != nil {
		return fmt.Errorf("restore servers: %w", err)
	}
	n.link.Start(ctx)
	log.Info("node is up", "node", n.link.NodeID(), "dir", path)
	<-ctx.Done()
	log.Info("node daemon ends; games go on", "node", n.link.NodeID())
	return nil
}

// node is the parts of a running daemon.
type node struct {
	engine *engine.Docker
	agent  *agent.Agent
	link   *link.Link
}

func open(dir, version string, pool netip.Prefix, log *slog.Logger) (*node, error) {
	n := &node{}
	var handler http.Handler
	facts := link.Machine(dir)
	l, err := link.New(link.Config{
		Dir: dir, Release: version, Log: log,
		// The agent answers, and it is made after the link because it reports through it.
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }),
		Facts:   func(ctx context.Context) wire.Heartbeat { return n.facts(ctx, facts(ctx)) },
	})
	if err != nil {
		return nil, err
	}
	n.link = l
	n.engine, err = engine.NewDocker(engine.Config{NodeLabel: l.NodeID(), NetworkPool: pool, BuiltinBinary: self(), Logger: log})
	if err != nil {
		l.Stop()
		return nil, err
	}
	n.agent, err = agent.New(agent.Config{Engine: n.engine, Dir: dir, Reporter: l, Render: render.Apply, Logger: log})
	if err != nil {
		l.Stop()
		n.engine.Close()
		return nil, err
	}
	handler = n.agent.Handler()
	return n, nil
}

func (n *node) close() {
	n.link.Stop()
	n.agent.Stop()
	n.engine.Close()
}

const infoTimeout = 5 * time.Second // an engine that does not answer must not hold up a heartbeat

// facts adds what the engine says to what the kernel says.
func (n *node) facts(ctx context.Context, h wire.Heartbeat) wire.Heartbeat {
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	info, err := n.engine.Info(ctx, agent.OpInfo)
	if err != nil {
		h.EngineError = err.Error()
		return h
	}
	h.Engine = info.Name + " " + info.Version
	known, err := n.agent.List()
	if err != nil {
		return h // still restoring
	}
	for _, o := range known.Observed {
		if o.State == wire.StateRunning || o.State == wire.StateStarting || o.State == wire.StateStopping {
			h.Containers++
		}
	}
	return h
}

// self is the binary that becomes the demo image: this one.
func self() string {
	path, err := os.Executable()
	if err != nil {
		return "" // the demo image is then unavailable, and says so
	}
	return path
}
