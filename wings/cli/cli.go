// Package cli is the command line of wings.
//
// It owns the commands, their flags and how the node's parts are put together: engine, agent, link.
// It refuses to decide anything about servers or trust.
//
// Its one invariant: ending the program, for whatever reason, never stops a game.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/mambahost/mamba/blueprints/render"
	"github.com/mambahost/mamba/wings/agent"
	"github.com/mambahost/mamba/wings/demo"
	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/link"
	"github.com/mambahost/mamba/wings/wire"
)

// DefaultDir holds the node's identity, spool, records and the servers' data.
const DefaultDir = "/var/lib/mamba-wings"

const joinTimeout = time.Minute

// Program is one run of the command line.
type Program struct {
	Release string   // of the binary
	Args    []string // without the program's name
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
}

// Run executes the command that Args name, until it is done or ctx ends, and returns the exit code.
func Run(ctx context.Context, p Program) int {
	root := &cobra.Command{
		Use:           "wings",
		Short:         "Runs the game servers of this machine for a Mamba Host panel",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetArgs(p.Args)
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	root.AddCommand(p.join(), p.run(), p.version(), p.demoServer(), p.demoInstall())
	err := root.ExecuteContext(ctx)
	var exit *demo.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(p.Stderr, "wings:", err)
	}
	return demo.ExitCode(err)
}

func (p Program) join() *cobra.Command {
	var token, dir string
	c := &cobra.Command{
		Use:   "join URL --token TOKEN",
		Short: "Join a panel with the command that it shows when a node is added",
		Args:  cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 || token == "" {
				return errors.New("join needs the panel's address and a token; copy the whole command that the panel shows when a node is added: wings join https://panel.example.com:8443 --token TOKEN")
			}
			ctx, cancel := context.WithTimeout(c.Context(), joinTimeout)
			defer cancel()
			id, err := link.Join(ctx, args[0], token, dir, p.Release)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(p.Stdout, "This machine is node %s now. Start it with: wings run --dir %s\n", id, dir)
			return err
		},
	}
	c.Flags().StringVar(&token, "token", "", "one-time token of the node, from the panel")
	c.Flags().StringVar(&dir, "dir", DefaultDir, "folder of the node's identity and data")
	return c
}

// runFlags are what `wings run` can be told.
type runFlags struct {
	dir, dockerHost, networkPool, logLevel string
	uid, gid                               int
}

func (p Program) run() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the servers of this node and keep the link to the panel",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return p.node(c.Context(), f) },
	}
	c.Flags().StringVar(&f.dir, "dir", DefaultDir, "folder of the node's identity and data")
	c.Flags().StringVar(&f.dockerHost, "docker-host", "", "address of the Docker Engine API (default: as the docker command)")
	c.Flags().StringVar(&f.networkPool, "network-pool", "", "IPv4 range for the tenants' private networks (default "+engine.DefaultNetworkPool.String()+")")
	c.Flags().StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	c.Flags().IntVar(&f.uid, "uid", agent.DefaultUID, "user that games run as")
	c.Flags().IntVar(&f.gid, "gid", agent.DefaultGID, "group that games run as")
	return c
}

// node puts the parts together and runs them until ctx ends. The agent goes on with the servers
// whether or not the panel or the engine is there.
func (p Program) node(ctx context.Context, f runFlags) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	log := slog.New(slog.NewTextHandler(p.Stderr, &slog.HandlerOptions{Level: level}))
	dir, err := filepath.Abs(f.dir)
	if err != nil {
		return err
	}
	id, err := link.Joined(dir)
	if err != nil {
		return err
	}
	free, err := hold(ctx, dir, log)
	if err != nil {
		return err
	}
	defer free()
	eng, err := p.engine(f, id, log)
	if err != nil {
		return err
	}
	defer eng.Close()
	var servers *agent.Agent // set before the link asks for facts
	tie, err := link.New(link.Config{
		Dir: dir, Release: p.Release, Log: log.With("part", "link"),
		Facts: func(ctx context.Context) wire.Heartbeat { return facts(ctx, dir, servers) },
	})
	if err != nil {
		return err
	}
	defer tie.Stop()
	servers, err = agent.New(agent.Config{
		Engine: eng, Dir: filepath.Join(dir, "servers"), Reporter: tie, Render: render.Apply,
		Logger: log.With("part", "agent"), UID: f.uid, GID: f.gid, Samples: tie, PanelTime: tie.PanelTime,
	})
	if err != nil {
		return err
	}
	defer servers.Stop()
	if err := servers.Start(ctx); err != nil {
		return err
	}
	tie.Start(ctx, servers.Handler())
	log.Info("wings runs", "node", id, "release", p.Release, "dir", dir)
	<-ctx.Done()
	log.Info("wings ends; the games go on")
	tie.Stop() // before the agent: no request may meet one that has stopped
	return nil
}

func (p Program) engine(f runFlags, node string, log *slog.Logger) (*engine.Docker, error) {
	cfg := engine.Config{Host: f.dockerHost, NodeLabel: node, Logger: log.With("part", "engine")}
	if f.networkPool != "" {
		pool, err := netip.ParsePrefix(f.networkPool)
		if err != nil {
			return nil, fmt.Errorf("--network-pool: %w", err)
		}
		cfg.NetworkPool = pool
	}
	var err error
	if cfg.BuiltinBinary, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find own binary: %w", err)
	}
	return engine.NewDocker(cfg)
}

// facts is what a heartbeat says: the machine, and the engine as the agent sees it.
func facts(ctx context.Context, dir string, servers *agent.Agent) wire.Heartbeat {
	h := link.Machine(dir)(ctx)
	health := servers.Health(ctx)
	h.Engine, h.EngineError, h.Containers = health.Engine, health.EngineError, int64(health.Running)
	return h
}

func (p Program) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the release and the protocol version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(p.Stdout, "wings %s (protocol %d)\n", p.Release, wire.Version)
			return err
		},
	}
}

// The demo commands are what runs inside the containers of the built-in image, which is this binary.
func (p Program) demoServer() *cobra.Command {
	return &cobra.Command{
		Use: demo.ServerCommand, Hidden: true, DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error { return demo.Run(c.Context(), args, p.Stdin, p.Stdout) },
	}
}

func (p Program) demoInstall() *cobra.Command {
	return &cobra.Command{
		Use: demo.InstallCommand, Hidden: true, DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error { return demo.Install(c.Context(), args, p.Stdout) },
	}
}
