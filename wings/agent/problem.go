package agent

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mambahost/mamba/wings/engine"
	"github.com/mambahost/mamba/wings/wire"
)

// Errors that callers of the agent decide on.
var (
	ErrSuperseded = errors.New("agent: an older placement epoch than the node has seen")
	ErrUnknown    = errors.New("agent: no such server on this node")
	ErrInvalid    = errors.New("agent: the spec is not valid")
	ErrNotRunning = errors.New("agent: the server is not running")
	ErrTooFast    = errors.New("agent: too many commands")
	ErrTooMany    = errors.New("agent: too many viewers")
	ErrTooLong    = errors.New("agent: the command is too long")
	ErrStopped    = errors.New("agent: wings is stopping")
)

// errConfig marks a config file that cannot be edited: permanent until the spec or the file changes.
var errConfig = errors.New("config file cannot be edited")

func crashProblem(exit engine.Exit) *wire.Problem {
	if exit.OOMKilled {
		return &wire.Problem{Code: wire.ProblemOutOfMemory,
			Message: "The game needed more memory than this server has and was ended. Give it more memory, or remove mods or players.",
			Detail:  fmt.Sprintf("exit code %d, out of memory", exit.Code)}
	}
	return &wire.Problem{Code: wire.ProblemCrashed,
		Message: fmt.Sprintf("The game ended by itself with exit code %d. The last lines of the console usually say why.", exit.Code),
		Detail:  fmt.Sprintf("exit code %d %s", exit.Code, exit.Reason)}
}

func installProblem(exit engine.Exit, timedOut bool) *wire.Problem {
	switch {
	case timedOut:
		return &wire.Problem{Code: wire.ProblemInstallTimeout,
			Message: "The installation took too long and was ended. Try to reinstall; if it happens again, the download may be too slow.",
			Detail:  fmt.Sprintf("exit code %d after the time limit", exit.Code)}
	case exit.OOMKilled:
		return &wire.Problem{Code: wire.ProblemInstallFailed,
			Message: "The installation needed more memory than it may use and was ended.",
			Detail:  fmt.Sprintf("exit code %d, out of memory", exit.Code)}
	}
	return &wire.Problem{Code: wire.ProblemInstallFailed,
		Message: fmt.Sprintf("The installation ended with exit code %d. The console shows its log. Fix the settings it names, then reinstall.", exit.Code),
		Detail:  fmt.Sprintf("exit code %d %s", exit.Code, exit.Reason)}
}

func notReadyProblem(seconds int64) *wire.Problem {
	return &wire.Problem{Code: wire.ProblemNotReady,
		Message: fmt.Sprintf("The game started but was not ready within %d seconds, so it was stopped. The console shows how far it got.", seconds),
		Detail:  "ready check did not pass in time"}
}

// problemOf says what an error of a step means, and whether trying again can help.
func problemOf(err error) (p *wire.Problem, permanent bool) {
	detail := err.Error()
	if len(detail) > wire.MaxMessageBytes {
		detail = detail[:wire.MaxMessageBytes]
	}
	switch {
	case errors.Is(err, engine.ErrImageUnavailable):
		return &wire.Problem{Code: wire.ProblemImageUnavailable,
			Message: "The game's image is not on this node and could not be downloaded. Try again later or ask the operator.", Detail: detail}, true
	case errors.Is(err, errConfig):
		return &wire.Problem{Code: wire.ProblemConfig,
			Message: "A config file of the server could not be edited. Repair or remove the file and start again.", Detail: detail}, true
	case errors.Is(err, engine.ErrPortTaken):
		return &wire.Problem{Code: wire.ProblemPortTaken,
			Message: "Another program on the node uses the server's port. It is tried again.", Detail: detail}, false
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &wire.Problem{Code: wire.ProblemDisk,
			Message: "The node's disk is full. It is tried again when there is space.", Detail: detail}, false
	}
	return &wire.Problem{Code: wire.ProblemEngine,
		Message: "The node's container engine is not answering as it should. It is tried again.", Detail: detail}, false
}
