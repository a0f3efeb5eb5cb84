package engine

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// mapped wraps err with what we did. Where the API's error has a class that callers decide on, the
// sentinel is in the chain too.
func mapped(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%s: %w: %w", what, ErrNotFound, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// portTakenTexts is how dockerd words a published port that is in use: its own allocator's word
// for a port of another container, and the kernel's for one of another process.
var portTakenTexts = []string{"port is already allocated", "address already in use"}

// isPortTaken is the one place where an error's text is looked at. The API answers 500 without a
// code for every failure to start, from a missing file to a port in use, in every version up to
// 28; the difference is the customer's message and whether to retry, so it must be told. A text
// that a later version words differently makes it an ordinary engine error, which is retried.
func isPortTaken(err error) bool {
	if !errdefs.IsInternal(err) && !errdefs.IsConflict(err) {
		return false
	}
	text := err.Error()
	for _, known := range portTakenTexts {
		if strings.Contains(text, known) {
			return true
		}
	}
	return false
}

// errForeign says that a name of ours is taken by an object that is not ours.
var errForeign = errors.New("it exists and was not made by Mamba Host")
