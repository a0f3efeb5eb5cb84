package dockertest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
)

// sweep discards the daemons of test processes that were killed before they could clean up. Their
// folder carries the pid of the owner; one whose owner lives is left alone. What cannot be removed
// is left for the next sweep: it must not fail a test that has nothing to do with it.
func sweep() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		pid, err := strconv.Atoi(owner)
		if err != nil || alive(pid) {
			continue
		}
		_ = discardDir(dir)
		netns := filepath.Base(dir)
		if _, err := os.Stat("/run/netns/" + netns); err == nil {
			_ = command("ip", "netns", "delete", netns)
		}
	}
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// discardDir kills every process whose command line names dir, and the containers below its shims,
// unmounts what is mounted below dir and removes it.
func discardDir(dir string) error {
	var errs []error
	for _, shim := range shimsOf(dir) {
		for _, child := range childrenOf(shim) {
			errs = append(errs, killAndWait(child))
		}
		errs = append(errs, killAndWait(shim))
	}
	errs = append(errs, killMatching(func(argv []string) bool {
		switch filepath.Base(argv[0]) {
		case "dockerd", "containerd", "docker-proxy", "containerd-shim-runc-v2":
			return mentions(argv, dir)
		}
		return false
	}))
	for _, target := range mountsBelow(dir) {
		if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			errs = append(errs, &os.PathError{Op: "unmount", Path: target, Err: err})
		}
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}

// shimsOf lists the containerd shims that serve the daemon of dir.
func shimsOf(dir string) []int {
	var pids []int
	for pid, argv := range processes() {
		if strings.HasPrefix(filepath.Base(argv[0]), "containerd-shim") && mentions(argv, dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func killMatching(match func(argv []string) bool) error {
	var errs []error
	for pid, argv := range processes() {
		if match(argv) {
			errs = append(errs, killAndWait(pid))
		}
	}
	return errors.Join(errs...)
}

// killAndWait sends SIGKILL and waits until the process is gone or a zombie of another parent.
func killAndWait(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		if errors.Is(err, syscall.ESRCH) {
			return nil
		}
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return poll(ctx, func() (bool, error) {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			return true, nil
		}
		_, rest, _ := bytes.Cut(stat, []byte(") "))
		return bytes.HasPrefix(rest, []byte("Z")), nil
	})
}

// processes reads the command line of every process that has one.
func processes() map[int][]string {
	found := map[int][]string{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return found
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if err != nil || len(raw) == 0 {
			continue
		}
		found[pid] = strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
	}
	return found
}

func mentions(argv []string, dir string) bool {
	for _, arg := range argv {
		if strings.Contains(arg, dir+"/") {
			return true
		}
	}
	return false
}

func childrenOf(pid int) []int {
	name := strconv.Itoa(pid)
	raw, err := os.ReadFile("/proc/" + name + "/task/" + name + "/children")
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range strings.Fields(string(raw)) {
		if child, err := strconv.Atoi(field); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}

// mountsBelow lists mount points below dir, deepest first.
func mountsBelow(dir string) []string {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var targets []string
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			targets = append(targets, fields[4])
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(targets)))
	return targets
}
