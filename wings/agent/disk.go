package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of measuring data folders. One folder is walked at a time, at a bounded pace, the one whose
// last measure is oldest first; between two of its walks a server's use counts as what the last one
// found. So a server with little data is measured each minute, one that takes a minute to walk each
// twenty, and a node with five million files each twenty minutes; the error is what was written or
// removed meanwhile.
const (
	diskEntriesPerS = 4000            // of a walk: directory entries
	diskBatch       = 256             // entries between two pauses
	diskLeast       = time.Minute     // between two walks of one folder
	diskShare       = 20              // and at least so many times as long as the last one took
	diskMaxDepth    = 128             // folders in folders; each holds a file descriptor
	diskMaxEntries  = 20_000_000      // of one folder; then it is told as far as it was walked
	diskIdle        = 5 * time.Second // before looking again when nothing is due
	diskFirst       = time.Second     // after the start
)

// measureDisks walks the data folders in turn until ctx ends.
func (p *sampler) measureDisks(ctx context.Context) {
	due := map[string]time.Time{} // by server: not before
	for wait := diskFirst; sleep(ctx, wait) == nil; wait = diskIdle {
		for ctx.Err() == nil {
			server := p.nextDisk(due, time.Now())
			if server == "" {
				break
			}
			begun := time.Now()
			bytes, err := diskUse(ctx, p.dataDir(server))
			now := time.Now()
			due[server] = now.Add(max(diskLeast, diskShare*now.Sub(begun)))
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				p.log.Warn("the data folder cannot be measured", "server", server, "error", err)
				continue
			}
			p.mu.Lock()
			if m := p.meters[server]; m != nil {
				m.measured(now, bytes)
			}
			p.mu.Unlock()
		}
	}
}

// nextDisk is the server whose folder has been due for longest; empty when none is.
func (p *sampler) nextDisk(due map[string]time.Time, now time.Time) (server string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range due {
		if p.meters[id] == nil {
			delete(due, id)
		}
	}
	for id := range p.meters {
		if at := due[id]; !at.After(now) && (server == "" || at.Before(due[server])) {
			server = id
		}
	}
	return server
}

// diskUse is what a folder takes on the disk: allocated blocks, not lengths, so that a sparse file
// counts as what it holds; a file with several names in equal parts at each, so that a hard link is
// not paid for twice. It follows no link and does not leave the file system: below a folder everything
// is opened relative to its descriptor. What goes while it is walked is not counted. A folder that is
// not there takes nothing.
func diskUse(ctx context.Context, dir string) (int64, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return 0, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	w := walker{ctx: ctx, dev: st.Dev, bytes: st.Blocks * 512}
	err = w.folder(os.NewFile(uintptr(fd), dir), 0)
	return w.bytes, err
}

type walker struct {
	ctx     context.Context
	dev     uint64
	entries int64
	bytes   int64
}

// folder counts what is in f, and closes it.
func (w *walker) folder(f *os.File, depth int) error {
	defer f.Close()
	for w.entries < diskMaxEntries {
		names, err := f.Readdirnames(diskBatch)
		for _, name := range names {
			if err := w.entry(f, name, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) entry(parent *os.File, name string, depth int) error {
	if w.entries++; w.entries%diskBatch == 0 {
		if err := sleep(w.ctx, time.Second*diskBatch/diskEntriesPerS); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if unix.Fstatat(int(parent.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Dev != w.dev {
		return nil // gone, or another file system
	}
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	bytes := st.Blocks * 512
	if !dir {
		bytes /= int64(max(st.Nlink, 1))
	}
	w.bytes += bytes
	if !dir || depth >= diskMaxDepth {
		return nil
	}
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // gone, or a link stands there now
	}
	return w.folder(os.NewFile(uintptr(fd), name), depth+1)
}
