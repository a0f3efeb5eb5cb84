package wire

import "time"

// Hello is the first thing a node says on a new control connection (HTTP header-free JSON body of
// GET /v1/nodes/{id}/link's first stream), and HelloReply the panel's answer.
type Hello struct {
	Version   int       `json:"version"`    // wire.Version of the node
	Release   string    `json:"release"`    // of the binary, e.g. "0.1.0"
	SpoolID   string    `json:"spool_id"`   // of the event spool; a rebuilt node has a new one
	BootID    string    `json:"boot_id"`    // of this run of wings
	Capacity  Capacity  `json:"capacity"`   // what the machine has
	Engine    string    `json:"engine"`     // e.g. "docker 20.10.24"
	NodeClock time.Time `json:"node_clock"` // to report skew
}

// HelloReply is the panel's answer to Hello.
type HelloReply struct {
	Version    int       `json:"version"`
	InstanceID string    `json:"instance_id"` // of the panel instance that holds this link
	Instances  []string  `json:"instances"`   // node-listener addresses of every live instance, this one included; empty: no news
	PanelClock time.Time `json:"panel_clock"`
	AckedSeq   int64     `json:"acked_seq"` // newest event of this spool that is durable in the panel
	// Error says why the panel will not work with this node; the node logs it and tries again later.
	Error *Error `json:"error,omitempty"`
}

// Capacity of a machine.
type Capacity struct {
	CPUMillicores int64 `json:"cpu_millicores"`
	MemoryMiB     int64 `json:"memory_mib"`
	DiskMiB       int64 `json:"disk_mib"`
}

// Heartbeat is POST /v1/nodes/{id}/heartbeat, every HeartbeatInterval. It writes no audit row.
type Heartbeat struct {
	Version     int       `json:"version"`
	Release     string    `json:"release"`
	SpoolID     string    `json:"spool_id"`
	Capacity    Capacity  `json:"capacity"`
	Load1       float64   `json:"load1"`         // 1-minute load average
	MemUsedMiB  int64     `json:"mem_used_mib"`  // of the machine
	DiskUsedMiB int64     `json:"disk_used_mib"` // of the file system that holds the servers' data
	Containers  int64     `json:"containers"`    // of ours that run
	Engine      string    `json:"engine"`        // version, or empty while the engine is away
	EngineError string    `json:"engine_error"`  // why it is away
	NodeClock   time.Time `json:"node_clock"`
	Roots       []string  `json:"roots,omitempty"` // fingerprints of the root certificates that it trusts; absent: an older node
}

// HeartbeatReply tells the node what the panel thinks of it.
type HeartbeatReply struct {
	PanelClock time.Time `json:"panel_clock"`
	Status     string    `json:"status"`              // ONLINE, DRAINING, MAINTENANCE
	Instances  []string  `json:"instances,omitempty"` // as in HelloReply; absent (an older panel): no news
	Roots      string    `json:"roots,omitempty"`     // PEM of the root certificates to trust from now on; absent: no news
	Renew      bool      `json:"renew,omitempty"`     // the node's certificate is to be renewed now, though it is not due
}

// HeartbeatInterval is how often a node reports; OfflineAfter is how long a silence makes it OFFLINE.
const (
	HeartbeatInterval = 15 * time.Second
	OfflineAfter      = 60 * time.Second
)

// EventKind says what an Event carries.
type EventKind string

const (
	EventObserved  EventKind = "observed"  // Observed is set: a server's state changed
	EventCrash     EventKind = "crash"     // Crash is set: a game ended unasked
	EventInstalled EventKind = "installed" // Install is set: an install script ended
	EventUnknown   EventKind = "unknown"   // Unknown is set: a container with our label and no Spec
	EventGap       EventKind = "gap"       // Gap is set: the spool was full and dropped events
)

// Event is one entry of a node's spool. (node, spool id, Seq) is its natural key: sent twice it
// counts once.
type Event struct {
	Seq      int64             `json:"seq"` // contiguous from 1 within a spool id
	At       time.Time         `json:"at"`
	Kind     EventKind         `json:"kind"`
	Observed *Observed         `json:"observed,omitempty"`
	Crash    *CrashReport      `json:"crash,omitempty"`
	Install  *InstallReport    `json:"install,omitempty"`
	Unknown  *UnknownContainer `json:"unknown,omitempty"`
	Gap      *Gap              `json:"gap,omitempty"`
}

// EventBatch is POST /v1/nodes/{id}/events. Events are in order of Seq, without holes.
type EventBatch struct {
	SpoolID string  `json:"spool_id"`
	Events  []Event `json:"events"`
}

// EventAck answers an EventBatch. The node drops what is acknowledged from its disk, and only that.
type EventAck struct {
	AckedSeq int64 `json:"acked_seq"` // highest contiguous sequence of that spool id that is durable
}

// CrashReport says how a game ended unasked.
type CrashReport struct {
	ServerID       string   `json:"server_id"`
	PlacementEpoch int64    `json:"placement_epoch"`
	ContainerID    string   `json:"container_id"`
	ExitCode       int      `json:"exit_code"`
	OOMKilled      bool     `json:"oom_killed"`
	Attempt        int64    `json:"attempt"`    // which crash since the last stable run, from 1
	GivenUp        bool     `json:"given_up"`   // the last one: it will not be restarted
	LastLines      []string `json:"last_lines"` // of the console, at most 50
}

// InstallReport says how an install script ended, with the end of its log.
type InstallReport struct {
	ServerID       string `json:"server_id"`
	PlacementEpoch int64  `json:"placement_epoch"`
	ReinstallCount int64  `json:"reinstall_count"` // which install this was
	ExitCode       int    `json:"exit_code"`
	TimedOut       bool   `json:"timed_out"`
	Log            string `json:"log"` // at most MaxInstallLogBytes, the end of it
}

// UnknownContainer is one with our label that no Spec names. It is reported and left alone.
type UnknownContainer struct {
	ServerID    string `json:"server_id"`
	ContainerID string `json:"container_id"`
	Running     bool   `json:"running"`
}

// Gap says that events From..To were dropped because the spool was full.
type Gap struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Sync is PUT /v1/servers: the desired state of every server placed on the node. A server that is
// missing from it is reported as unknown, never removed.
type Sync struct {
	Specs []Spec `json:"specs"`
}

// SyncReply answers Sync, and GET /v1/servers: what the node knows of every server it has.
type SyncReply struct {
	Observed []Observed `json:"observed"`
}

// Command is POST /v1/servers/{id}/command: one line for the game's stdin, without a line end.
type Command struct {
	Line string `json:"line"`
}

// ConsoleFrame is one message of GET /v1/servers/{id}/console (WebSocket, JSON text frames), from
// node to viewer. Exactly one of the fields is set.
type ConsoleFrame struct {
	Lines []ConsoleLine `json:"lines,omitempty"`
	Gap   *ConsoleGap   `json:"gap,omitempty"`
	State State         `json:"state,omitempty"` // changed while watching
	Error *Problem      `json:"error,omitempty"` // what was typed could not be delivered
	Live  bool          `json:"live,omitempty"`  // the history is over; what follows is as it happens
}

// ConsoleInput is one message from viewer to node.
type ConsoleInput struct {
	Command string `json:"command"`
}

// ConsoleStream says where a line came from.
type ConsoleStream string

const (
	StreamOut     ConsoleStream = "out"     // the game
	StreamInstall ConsoleStream = "install" // the install script
	StreamSystem  ConsoleStream = "system"  // wings itself: pulled, started, exited
	StreamInput   ConsoleStream = "input"   // a command that someone sent
)

// ConsoleLine is one line of a server's console. Seq rises by one per line and server for as long
// as the node keeps the server, so a viewer that reconnects with ?after=Seq loses and doubles none.
type ConsoleLine struct {
	Seq    int64         `json:"seq"`
	At     time.Time     `json:"at"`
	Stream ConsoleStream `json:"stream"`
	Text   string        `json:"text"` // ANSI colours pass through; no line end
}

// ConsoleGap says that lines From..To are not to be had any more: the ring was too small, the
// viewer too slow, or wings was away.
type ConsoleGap struct {
	From int64 `json:"from"`
	To   int64 `json:"to"` // 0: unknown
}

// Error is the body of every answer ≥ 400 on the link and on the node listener.
type Error struct {
	Status  int    `json:"status"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// EnrolRequest is POST /v1/enrol, the one route without a client certificate.
type EnrolRequest struct {
	Token     string    `json:"token"` // the one-time part of the join token
	CSR       string    `json:"csr"`   // PEM, ECDSA P-256; its subject is ignored
	Release   string    `json:"release"`
	NodeClock time.Time `json:"node_clock"`
}

// EnrolReply gives the node its identity.
type EnrolReply struct {
	NodeID      string   `json:"node_id"`
	Certificate string   `json:"certificate"` // PEM chain: leaf, issuing CA
	Roots       string   `json:"roots"`       // PEM bundle that the panel's listener is verified against
	Instances   []string `json:"instances"`   // node-listener addresses of every live instance
}

// RenewRequest is POST /v1/renew with the current certificate; EnrolReply answers it.
type RenewRequest struct {
	CSR       string    `json:"csr"`
	NodeClock time.Time `json:"node_clock"`
}

// NodeURIPrefix is how a node certificate names its node: one URI SAN "mamba://node/<id>".
const NodeURIPrefix = "mamba://node/"
