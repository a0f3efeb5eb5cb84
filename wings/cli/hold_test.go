package cli

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// noted is a log that tells when something was said.
type noted struct {
	mu   sync.Mutex
	text bytes.Buffer
	said chan struct{} // capacity 1
}

func (n *noted) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case n.said <- struct{}{}:
	default:
	}
	return n.text.Write(p)
}

// Two daemons never work on one folder at once; the second goes on when the first has let go.
func TestOneWingsPerFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := &noted{said: make(chan struct{}, 1)}
	logger := slog.New(slog.NewTextHandler(log, nil))
	first, err := hold(t.Context(), dir, logger)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { // ends when the folder is free
		free, err := hold(t.Context(), dir, logger)
		if err == nil {
			free()
		}
		got <- err
	}()
	<-log.said
	select {
	case err := <-got:
		t.Fatalf("a second one works on the folder: %v", err)
	default:
	}
	first()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if text := log.text.String(); strings.Count(text, "another wings works on this folder") != 1 {
		t.Errorf("it said %q", text)
	}
	other, err := hold(t.Context(), t.TempDir(), logger) // another folder is nobody's business
	if err != nil {
		t.Fatal(err)
	}
	other()
}

func TestWaitingForAFolderEndsWithItsContext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	quiet := slog.New(slog.DiscardHandler)
	free, err := hold(t.Context(), dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer free()
	ctx, cancel := context.WithTimeout(t.Context(), 3*lockRetry)
	defer cancel()
	began := time.Now()
	if _, err := hold(ctx, dir, quiet); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if _, err := hold(t.Context(), dir+"/nowhere", quiet); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}
