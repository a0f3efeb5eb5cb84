package hooks

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"golang.org/x/sys/unix"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/wings/wire"
)

// Share of this machine that its node may give away, in percent: the panel and the engine live here,
// too. Few servers use all of their CPU at once, so that is given away several times.
const (
	localMemoryPercent = 80
	localDiskPercent   = 80
	localOvercommitCPU = 400
)

// identityFile is where wings keeps who it is.
const identityFile = "identity.json"

// startLocal enrols this machine once and keeps its node daemon running.
func (p *Panel) startLocal(ctx context.Context) error {
	if !p.config.LocalNode {
		return nil
	}
	dir := dataFile(p.app.DataDir(), "wings")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	capacity, err := machine(dir)
	if err != nil {
		return fmt.Errorf("measure this machine: %w", err)
	}
	node, token, needJoin, err := p.Fleet.EnsureLocalNode(fleet.LocalNode{
		Name: p.config.NodeName, Addresses: []string{p.config.NodeAddress}, Capacity: capacity, Identity: identity(dir),
	})
	if err != nil {
		return err
	}
	if err := p.firstPorts(node); err != nil {
		return err
	}
	daemon, prefix, err := daemonBinary()
	if err != nil {
		return err
	}
	run := append(prefix, "run", "--dir", dir)
	p.local = &fleet.Supervisor{Path: daemon, Args: run, Out: os.Stderr, Log: p.log}
	if needJoin {
		// Another installation's identity, or a revoked one: this machine joins anew.
		if err := os.Remove(filepath.Join(dir, identityFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		join := append(prefix[:len(prefix):len(prefix)], "join", "https://"+p.Fleet.Addr(), "--token", token, "--dir", dir)
		if err := p.local.Once(ctx, join...); err != nil {
			return fmt.Errorf("enrol this machine: %w", err)
		}
	}
	p.local.Start(ctx)
	return nil
}

// firstPorts gives a node that has none the ports of the command line, and its CPU overcommit.
func (p *Panel) firstPorts(node string) error {
	n, err := p.app.CountRecords(collections.PortPools, dbx.HashExp{"node": node})
	if err != nil || n > 0 {
		return err
	}
	percent := int64(localOvercommitCPU)
	if _, err := p.Fleet.UpdateNode(audit.System, node, fleet.NodeInput{OvercommitCPU: &percent}); err != nil {
		return fmt.Errorf("set the overcommit of this machine: %w", err)
	}
	return collections.Tx(p.app, []collections.Lock{alloc.Lock, audit.Lock("")}, func(tx core.App) error {
		_, err := p.Alloc.AddPorts(tx, node, p.config.NodeAddress, p.config.NodePorts, []wire.Protocol{wire.TCP, wire.UDP})
		return err
	})
}

// daemonBinary is the small wings beside this binary, or this binary itself.
func daemonBinary() (path string, prefix []string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, fmt.Errorf("find this binary: %w", err)
	}
	if small := filepath.Join(filepath.Dir(self), "wings"); isProgram(small) {
		return small, nil, nil
	}
	return self, []string{"wings"}, nil
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// identity is the node id under which this machine has joined; empty when it never did.
func identity(dir string) string {
	raw, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	var id struct {
		NodeID string `json:"node_id"`
	}
	if err != nil || json.Unmarshal(raw, &id) != nil {
		return ""
	}
	return id.NodeID
}

// machine measures what of this machine may be given away.
func machine(dir string) (wire.Capacity, error) {
	memory, err := memoryMiB()
	if err != nil {
		return wire.Capacity{}, err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return wire.Capacity{}, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return wire.Capacity{
		CPUMillicores: int64(runtime.NumCPU()) * 1000,
		MemoryMiB:     memory * localMemoryPercent / 100,
		DiskMiB:       int64(disk.Bavail) * disk.Bsize >> 20 * localDiskPercent / 100,
	}, nil
}

// memoryMiB reads MemTotal of /proc/meminfo, which is in KiB.
func memoryMiB() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemTotal:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib >> 10, err
		}
	}
	return 0, errors.New("no MemTotal in /proc/meminfo")
}
