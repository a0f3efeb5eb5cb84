package postgrestest

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Limits of waiting for a server. Under load a start took 2 s.
const (
	readyTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
	pollInterval = 20 * time.Millisecond
)

// dirPrefix begins the name of a server's folder: mamba-postgres-<pid of the owner>-<random>.
const dirPrefix = "mamba-postgres-"

// superuser of a server of ours.
const superuser = "postgres"

// maxConnections of a server of ours: each app of a test may open two pools.
const maxConnections = 400

// cluster is a server that this process started.
type cluster struct {
	dir  string
	done chan struct{} // closed when the process was reaped
	pid  int
}

// binaries is the folder of the newest PostgreSQL of Debian's packages, or of initdb in PATH.
func binaries() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		path, err := exec.LookPath("initdb")
		if err != nil {
			return "", errors.New("there is no PostgreSQL here: install the package postgresql, or name a server in " + Variable)
		}
		return filepath.Dir(path), nil
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4])
		return n
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })
	return filepath.Dir(newest), nil
}

// credential is who runs the server: this user, or for root, as whom it refuses to run, postgres or
// nobody.
func credential() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

// startCluster makes a server without durability on a socket in its folder and waits for it.
func startCluster() (*cluster, error) {
	sweep()
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	who, err := credential()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", dirPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return nil, err
	}
	if who != nil {
		if err := os.Chown(dir, int(who.Uid), int(who.Gid)); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	c := &cluster{dir: dir, done: make(chan struct{})}
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", c.data(), "-U", superuser, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = dir, &syscall.SysProcAttr{Credential: who}
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("initdb: %w: %s", err, out), os.RemoveAll(dir))
	}
	if err := c.launch(filepath.Join(bin, "postgres"), who); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return c, c.ready()
}

func (c *cluster) data() string { return filepath.Join(c.dir, "data") }

// url of the superuser. Only who may enter the folder reaches the socket.
func (c *cluster) url() string {
	return "postgres://" + superuser + "@/postgres?host=" + url.QueryEscape(c.dir)
}

// launch starts the server on a thread that lives as long as it does: the kernel ends it with that
// thread (Pdeathsig), so also when the tests are killed.
func (c *cluster) launch(postgres string, who *syscall.Credential) error {
	log, err := os.Create(filepath.Join(c.dir, "log"))
	if err != nil {
		return err
	}
	cmd := exec.Command(postgres, "-D", c.data(), "-k", c.dir, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "synchronous_commit=off",
		"-c", "full_page_writes=off", "-c", "max_connections="+strconv.Itoa(maxConnections), "-c", "autovacuum=off", "-c", "wal_level=minimal",
		"-c", "max_wal_senders=0", "-c", "shared_buffers=64MB", "-c", "unix_socket_permissions=0777")
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who, Pdeathsig: syscall.SIGQUIT}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		err := cmd.Start()
		if err == nil {
			c.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(c.done)
		}
	}()
	return <-started
}

func (c *cluster) ready() error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var last error
	for end := time.Now().Add(readyTimeout); time.Now().Before(end); <-tick.C {
		select {
		case <-c.done:
			return errors.Join(fmt.Errorf("PostgreSQL ended at its start:\n%s", c.log()), os.RemoveAll(c.dir))
		default:
		}
		if _, last = query(c.url(), "SELECT 1"); last == nil {
			return nil
		}
	}
	return errors.Join(fmt.Errorf("PostgreSQL does not answer: %w:\n%s", last, c.log()), c.stop())
}

func (c *cluster) log() string {
	raw, err := os.ReadFile(filepath.Join(c.dir, "log"))
	if err != nil {
		return err.Error()
	}
	const most = 4 << 10
	return string(raw[max(0, len(raw)-most):])
}

// stop ends the server at once, which loses nothing that anybody wants, and removes its folder.
func (c *cluster) stop() error {
	if err := syscall.Kill(c.pid, syscall.SIGQUIT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		return fmt.Errorf("PostgreSQL (pid %d) did not end within %v", c.pid, stopTimeout)
	}
	return os.RemoveAll(c.dir)
}

// sweep removes the folders of processes that were killed before they could. Their servers ended
// with them.
func sweep() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		if pid, err := strconv.Atoi(owner); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir) // what cannot be removed is left for the next sweep
		}
	}
}
