package conformance

import (
	"log/slog"
	"os"
)

// LogVariable names a file to which the suites write each statement that failed, for whoever looks
// for the cause of a failure.
const LogVariable = "MAMBA_CONFORMANCE_LOG"

var failures = func() *slog.Logger {
	name := os.Getenv(LogVariable)
	if name == "" {
		return slog.New(slog.DiscardHandler)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelDebug}))
}()
