// Package wire holds every type that the panel and a node say to each other, and nothing else.
//
// It owns the names, the units and the validity of what crosses the link. It refuses to know how
// either side acts on it: it imports the standard library only, so that both binaries can use it.
//
// Its one invariant: a value that passes Validate means the same on both sides, and a peer one
// version behind can still decode it (fields are only ever added; unknown fields are ignored by
// the decoder and the version is carried in every hello).
package wire

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Version is the protocol version both sides announce in their hello. A node one version behind
// the panel works; anything further apart is refused with a sentence that says which to upgrade.
const Version = 1

// APIPrefix is the path prefix of every route on the link and on the node listener.
const APIPrefix = "/v1"

// Limits of what one message may carry. They bound memory on both sides.
const (
	MaxSpecBytes        = 1 << 20  // one Spec, encoded
	MaxSyncSpecs        = 10_000   // servers of one node in a full sync
	MaxEventsPerBatch   = 500      // events in one POST /v1/nodes/{id}/events
	MaxEventBatchBytes  = 4 << 20  // the same, encoded
	MaxInstallLogBytes  = 64 << 10 // tail of an install log kept with its outcome
	MaxCommandBytes     = 4 << 10  // one console command
	MaxConsoleLineBytes = 16 << 10 // one console line; longer ones are split
	MaxMessageBytes     = 1 << 10  // a sentence for a person
)

// Desired is what the panel wants a server to be on its node.
type Desired string

const (
	// DesiredRunning means installed, started and healthy.
	DesiredRunning Desired = "running"
	// DesiredStopped means installed, with no process.
	DesiredStopped Desired = "stopped"
	// DesiredAbsent means that container, data and ports are gone. It needs a DeleteID: absence of a
	// server from a sync never deletes anything.
	DesiredAbsent Desired = "absent"
)

// State is how far a node has got with a server. It is the node's word; the panel derives the
// customer's phase from it in hooks/servers.
type State string

const (
	StateAbsent        State = "absent"         // nothing of it is on this node
	StatePulling       State = "pulling"        // an image is being fetched or made
	StateInstalling    State = "installing"     // the install script runs in its own container
	StateInstallFailed State = "install_failed" // the script ended with another code than 0, or timed out
	StateStopped       State = "stopped"        // installed, no process
	StateStarting      State = "starting"       // the process runs, the game has not said that it is ready
	StateRunning       State = "running"        // ready
	StateStopping      State = "stopping"       // asked to end, still there
	StateCrashed       State = "crashed"        // ended unasked; waits for its next attempt
	StateFailed        State = "failed"         // gave up: attempts used up, or it cannot be created or become ready
	StateDeleting      State = "deleting"       // being removed
)

// Spec is the whole of what a node has to know of one server. The panel sends all of it each time
// (level-triggered): nothing is lost because no step has to be remembered.
type Spec struct {
	ServerID       string  `json:"server_id"`       // 15 chars [a-z0-9], immutable
	TenantID       string  `json:"tenant_id"`       // owner; decides the private network
	Name           string  `json:"name"`            // for people, in labels only
	PlacementEpoch int64   `json:"placement_epoch"` // rises at each placement, transfer and restore
	Generation     int64   `json:"generation"`      // rises at each change of desired state within an epoch
	Desired        Desired `json:"desired"`
	DeleteID       string  `json:"delete_id,omitempty"` // only with DesiredAbsent

	// Counters: a node acts when its own is behind, once however far behind it is.
	RestartCount   int64 `json:"restart_count"`
	KillCount      int64 `json:"kill_count"`
	ReinstallCount int64 `json:"reinstall_count"`

	Blueprint Blueprint         `json:"blueprint"`
	Image     Image             `json:"image"`
	Command   []string          `json:"command"` // argv; placeholders are already substituted
	Env       map[string]string `json:"env"`
	WorkDir   string            `json:"work_dir"` // where the server's data is mounted in the container
	Limits    Limits            `json:"limits"`
	Ports     []Port            `json:"ports"`
	Files     []ConfigFile      `json:"files,omitempty"`   // rendered before each start
	Install   *Install          `json:"install,omitempty"` // nil: nothing to install
	Ready     Ready             `json:"ready"`
	Stop      Stop              `json:"stop"`
	Crash     CrashPolicy       `json:"crash"`
}

// Blueprint names the recipe that a Spec was compiled from, for labels and messages.
type Blueprint struct {
	ID      string `json:"id"`      // slug, e.g. "minecraft-paper"
	Version string `json:"version"` // of the blueprint, e.g. "1.0.0"
}

// Image says which image to run. Exactly one of Ref and Builtin decides.
type Image struct {
	Ref     string `json:"ref"`               // e.g. "docker.io/itzg/minecraft-server:java21" or a local tag; used as is if it exists on the node
	Builtin string `json:"builtin,omitempty"` // "demo": made on the node out of the daemon's own static binary
}

// Limits of a server's container. Zero means no limit only where it says so.
type Limits struct {
	CPUMillicores int64 `json:"cpu_millicores"` // 1000 = one core; > 0
	MemoryMiB     int64 `json:"memory_mib"`     // > 0
	SwapMiB       int64 `json:"swap_mib"`       // beyond memory; 0 = none
	DiskMiB       int64 `json:"disk_mib"`       // > 0
	PIDs          int64 `json:"pids"`           // > 0
	IOWeight      int64 `json:"io_weight"`      // 10–1000; 0 = engine's default
}

// Protocol of a port.
type Protocol string

const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

// Port is one published port. The host side is an allocation of the panel; nothing else is published.
type Port struct {
	Name          string   `json:"name"` // the blueprint's name, e.g. "game"
	HostIP        string   `json:"host_ip"`
	HostPort      int      `json:"host_port"`
	ContainerPort int      `json:"container_port"`
	Protocol      Protocol `json:"protocol"`
}

// ConfigFile is a set of edits to one file of the server. The node keeps what it does not name:
// comments, order, unknown keys and the customer's own edits (blueprints/render).
type ConfigFile struct {
	Path   string `json:"path"`   // relative to the data root, no ".."
	Format string `json:"format"` // properties, yaml, json, ini, toml, xml, text
	Create bool   `json:"create"` // make it when it is missing
	Edits  []Edit `json:"edits"`
}

// Edit sets one value. Key is a path in the format's own terms ("server-port", "a.b[0].c",
// "section.key"); for text it is the line prefix to find.
type Edit struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	// Kind of the value in formats that have types: "string", "number", "bool". Empty: the kind of
	// what is there, else the narrowest that fits.
	Kind string `json:"kind,omitempty"`
}

// Install is a script that runs once in a limited container of its own before the first start.
type Install struct {
	Image      Image             `json:"image"`
	Entrypoint []string          `json:"entrypoint"` // e.g. ["/bin/sh", "-e"]; the script's path is appended
	Script     string            `json:"script"`     // empty: Entrypoint alone is run
	Env        map[string]string `json:"env"`
	TimeoutS   int64             `json:"timeout_s"` // > 0
	Limits     Limits            `json:"limits"`
	Network    bool              `json:"network"` // may it reach out
}

// Ready says when a starting game is ready. The first that is set decides; none: as soon as it runs.
type Ready struct {
	LogRegex string `json:"log_regex,omitempty"` // RE2, matched against each console line
	TCPPort  int    `json:"tcp_port,omitempty"`  // container port that must accept
	TimeoutS int64  `json:"timeout_s"`           // > 0; after it the start failed
}

// StopKind is how a game is asked to end.
type StopKind string

const (
	StopCommand StopKind = "command" // a console command, e.g. "stop"
	StopSignal  StopKind = "signal"  // a signal, e.g. "SIGTERM"
)

// Stop is how a game is asked to end, and for how long we wait before SIGKILL.
type Stop struct {
	Kind     StopKind `json:"kind"`
	Value    string   `json:"value"`
	TimeoutS int64    `json:"timeout_s"` // > 0
}

// CrashPolicy bounds how an unasked exit is answered.
type CrashPolicy struct {
	MaxAttempts  int64 `json:"max_attempts"`   // restarts before StateFailed; 0 = never restart
	BackoffMinMS int64 `json:"backoff_min_ms"` // first wait; doubles each time
	BackoffMaxMS int64 `json:"backoff_max_ms"`
	StableS      int64 `json:"stable_s"` // a run this long resets the count
}

// Observed is the whole of what a node knows of one server.
type Observed struct {
	ServerID       string    `json:"server_id"`
	PlacementEpoch int64     `json:"placement_epoch"`
	Generation     int64     `json:"generation"` // the newest Spec accepted (persisted) by the node
	Settled        bool      `json:"settled"`    // the state is what Generation asks for, or will not change by itself
	State          State     `json:"state"`
	DeleteID       string    `json:"delete_id,omitempty"` // echoed with StateAbsent after a delete
	ContainerID    string    `json:"container_id,omitempty"`
	StartedAt      time.Time `json:"started_at,omitzero"`
	ExitedAt       time.Time `json:"exited_at,omitzero"`
	ExitCode       *int      `json:"exit_code,omitempty"` // of the last run; nil before the first exit
	OOMKilled      bool      `json:"oom_killed,omitempty"`
	RestartCount   int64     `json:"restart_count"`   // counters reached
	KillCount      int64     `json:"kill_count"`      //
	ReinstallCount int64     `json:"reinstall_count"` //
	CrashCount     int64     `json:"crash_count"`     // unasked exits since the last stable run
	Installed      bool      `json:"installed"`
	Progress       Progress  `json:"progress,omitzero"`
	Problem        *Problem  `json:"problem,omitempty"` // why it is where it is, when that is not what was asked
	Revision       int64     `json:"revision"`          // of this node's record of the server; rises with each change
	At             time.Time `json:"at"`                // node clock
}

// Progress of what a node is doing, for the install story on the screen.
type Progress struct {
	Step    string `json:"step,omitempty"` // pull, install, create, start, ready, stop, delete
	Percent int    `json:"percent,omitempty"`
	Message string `json:"message,omitempty"`
}

// Problem is a reason for machines and people.
type Problem struct {
	Code    string `json:"code"`    // one of the Problem… codes
	Message string `json:"message"` // a sentence for a customer: no paths, no secrets
	Detail  string `json:"detail"`  // for the operator: the engine's own words
}

// Codes of Problem.
const (
	ProblemImageUnavailable = "image_unavailable" // not on the node and cannot be pulled
	ProblemInstallFailed    = "install_failed"    // exit code of the script was not 0
	ProblemInstallTimeout   = "install_timeout"
	ProblemNotReady         = "not_ready" // ran, but was never ready
	ProblemCrashed          = "crashed"   // ended unasked
	ProblemOutOfMemory      = "out_of_memory"
	ProblemPortTaken        = "port_taken"     // something else on the node holds the port
	ProblemEngine           = "engine_error"   // the engine refused or is away; retried
	ProblemConfig           = "config_invalid" // a config file could not be edited
	ProblemSuperseded       = "superseded"     // an older epoch than the node has seen
	ProblemDisk             = "disk_full"
)

const small = "abcdefghijklmnopqrstuvwxyz0123456789"

// ValidID reports whether s is an id of ours: 15 characters of [a-z0-9], as PocketBase makes them.
func ValidID(s string) bool { return len(s) == 15 && strings.Trim(s, small) == "" }

// validName reports whether s is the name of a port: [a-z0-9][a-z0-9_.-]{0,63}.
func validName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Contains(small, s[:1]) && strings.Trim(s, small+"_.-") == ""
}

// Validate returns every fault of the Spec joined, or nil. A node refuses an invalid Spec with 422
// and keeps the one it has.
func (s *Spec) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !ValidID(s.ServerID) {
		bad("server_id %q is not an id", s.ServerID)
	}
	if !ValidID(s.TenantID) {
		bad("tenant_id %q is not an id", s.TenantID)
	}
	if s.PlacementEpoch < 1 || s.Generation < 1 {
		bad("placement_epoch and generation start at 1, got (%d, %d)", s.PlacementEpoch, s.Generation)
	}
	switch s.Desired {
	case DesiredAbsent:
		if s.DeleteID == "" {
			bad("desired absent needs a delete_id")
		}
		return errors.Join(errs...) // the rest is not needed to remove a server
	case DesiredRunning, DesiredStopped:
		if s.DeleteID != "" {
			bad("delete_id is only for desired absent")
		}
	default:
		bad("desired %q is none of running, stopped, absent", s.Desired)
	}
	if len(s.Command) == 0 {
		bad("command is empty")
	}
	if len(s.WorkDir) == 0 || s.WorkDir[0] != '/' {
		bad("work_dir %q is not absolute", s.WorkDir)
	}
	errs = append(errs, s.Image.validate("image"), s.Limits.validate("limits"))
	errs = append(errs, s.validatePorts(), s.validateFiles(), s.validateLifecycle())
	return errors.Join(errs...)
}

func (s *Spec) validatePorts() error {
	var errs []error
	type key struct {
		ip    string
		port  int
		proto Protocol
	}
	seen := map[key]bool{}
	for i, p := range s.Ports {
		if !validName(p.Name) {
			errs = append(errs, fmt.Errorf("ports[%d].name %q", i, p.Name))
		}
		if p.HostPort < 1 || p.HostPort > 65535 || p.ContainerPort < 1 || p.ContainerPort > 65535 {
			errs = append(errs, fmt.Errorf("ports[%d]: %d→%d is out of range", i, p.HostPort, p.ContainerPort))
		}
		if p.Protocol != TCP && p.Protocol != UDP {
			errs = append(errs, fmt.Errorf("ports[%d].protocol %q is none of tcp, udp", i, p.Protocol))
		}
		k := key{p.HostIP, p.HostPort, p.Protocol}
		if seen[k] {
			errs = append(errs, fmt.Errorf("ports[%d]: %s:%d/%s twice", i, p.HostIP, p.HostPort, p.Protocol))
		}
		seen[k] = true
	}
	return errors.Join(errs...)
}

func (s *Spec) validateFiles() error {
	var errs []error
	for i, f := range s.Files {
		if !cleanRelative(f.Path) {
			errs = append(errs, fmt.Errorf("files[%d].path %q must be relative and stay below the data root", i, f.Path))
		}
		switch f.Format {
		case "properties", "yaml", "json", "ini", "toml", "xml", "text":
		default:
			errs = append(errs, fmt.Errorf("files[%d].format %q is not known", i, f.Format))
		}
	}
	return errors.Join(errs...)
}

func (s *Spec) validateLifecycle() error {
	var errs []error
	if s.Install != nil {
		errs = append(errs, s.Install.Image.validate("install.image"), s.Install.Limits.validate("install.limits"))
		if len(s.Install.Entrypoint) == 0 {
			errs = append(errs, errors.New("install.entrypoint is empty"))
		}
		if s.Install.TimeoutS < 1 {
			errs = append(errs, errors.New("install.timeout_s must be > 0"))
		}
	}
	if s.Ready.TimeoutS < 1 || s.Stop.TimeoutS < 1 {
		errs = append(errs, errors.New("ready.timeout_s and stop.timeout_s must be > 0"))
	}
	if s.Ready.LogRegex != "" {
		if _, err := regexp.Compile(s.Ready.LogRegex); err != nil {
			errs = append(errs, fmt.Errorf("ready.log_regex: %w", err))
		}
	}
	if s.Stop.Kind != StopCommand && s.Stop.Kind != StopSignal {
		errs = append(errs, fmt.Errorf("stop.kind %q is none of command, signal", s.Stop.Kind))
	}
	return errors.Join(errs...)
}

func (i Image) validate(field string) error {
	if (i.Ref == "") == (i.Builtin == "") {
		return fmt.Errorf("%s needs exactly one of ref and builtin", field)
	}
	if i.Builtin != "" && i.Builtin != "demo" {
		return fmt.Errorf("%s.builtin %q is not known", field, i.Builtin)
	}
	return nil
}

func (l Limits) validate(field string) error {
	if l.CPUMillicores <= 0 || l.MemoryMiB <= 0 || l.DiskMiB <= 0 || l.PIDs <= 0 || l.SwapMiB < 0 {
		return fmt.Errorf("%s: cpu, memory, disk and pids must be > 0", field)
	}
	if l.IOWeight != 0 && (l.IOWeight < 10 || l.IOWeight > 1000) {
		return fmt.Errorf("%s.io_weight %d is outside 10–1000", field, l.IOWeight)
	}
	return nil
}

// cleanRelative reports whether p is a relative slash path that cannot name anything outside.
func cleanRelative(p string) bool {
	if p == "" || p[0] == '/' || len(p) > 4096 {
		return false
	}
	start := 0
	for i := 0; i <= len(p); i++ {
		if i < len(p) && p[i] != '/' {
			if p[i] == 0 || p[i] == '\\' {
				return false
			}
			continue
		}
		if part := p[start:i]; part == "" || part == "." || part == ".." {
			return false
		}
		start = i + 1
	}
	return true
}
