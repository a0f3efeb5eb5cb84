package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Of the lock on a node's folder.
const (
	lockFile  = "lock"
	lockRetry = 50 * time.Millisecond
)

// hold makes this process the only one that works on a node's folder, and returns what lets go of it.
// While another one has it, it waits: the daemon of a panel that was killed ends by itself, and two of
// them would both write down what they see. The kernel lets go of the lock of a process that dies. The
// error is ctx's, or the disk's.
func hold(ctx context.Context, dir string, log *slog.Logger) (free func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of %s: %w", dir, err)
	}
	tick := time.NewTicker(lockRetry)
	defer tick.Stop()
	for told := false; ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
		}
		if !told {
			told = true
			log.Warn("another wings works on this folder; waiting for it to end", "dir", dir)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-tick.C:
		}
	}
}
