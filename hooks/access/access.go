// Package access is the door: who makes a request, in which shape it must come, and in which shape
// every answer that is not a success goes out. It also mints and checks the short intent tokens with
// which a WebSocket or a download proves itself, and remembers answers by Idempotency-Key.
//
// It owns spent_tokens and idempotency_keys, and what may be written to users by customers. It
// refuses to know what an actor may do; that is hooks/tenancy.
//
// Its one invariant: nothing that is not an *Error written by us reaches a customer as text; an
// unknown error is a 500 with a request id, and its chain is in the log only.
package access

import (
	"errors"
	"log/slog"

	"github.com/mambahost/mamba/collections"
)

var permit = collections.PermitFor("access")

// Config of New.
type Config struct {
	// IntentKey authenticates intent tokens: 32 bytes, secrets.Derive("intent").
	IntentKey []byte
	// Auditor writes the rows about accounts.
	Auditor Auditor
	// Log defaults to slog.Default().
	Log *slog.Logger
}

// Access mints, checks and remembers. Its methods can be called concurrently.
type Access struct {
	key     []byte // immutable
	auditor Auditor
	log     *slog.Logger
}

// New checks the configuration. Nothing runs in the background.
func New(c Config) (*Access, error) {
	if len(c.IntentKey) < 32 {
		return nil, errors.New("access: the intent key must have 32 bytes")
	}
	if c.Auditor == nil {
		return nil, errors.New("access: an auditor is needed")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Access{key: c.IntentKey, auditor: c.Auditor, log: c.Log}, nil
}
