package fleet

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/incidents"
	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of what an operator enters.
const (
	maxAddresses  = 32
	maxLabels     = 64
	maxLabelBytes = 63
	minOvercommit = 100  // percent
	maxOvercommit = 1000 // percent
	minMillicores = 100
	maxMillicores = 4_096_000 // 4,096 cores
	minMiB        = 128
	maxMemoryMiB  = 64 << 20 // 64 TiB
	maxDiskMiB    = 4 << 30  // 4 PiB
	maxLocation   = 80       // characters, as the column
)

var (
	nodeName    = pattern(`^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$`)
	hostName    = pattern(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	labelName   = pattern(`^[a-z0-9]([a-z0-9_./-]{0,61}[a-z0-9])?$`)
	errNoNode   = access.NotFound("node_not_found", "This node does not exist.")
	errNameUsed = access.InvalidField("name", "taken", "Another node has this name.")
)

// pattern compiles an expression when it is first used: such counts take longer than all else of a
// start.
func pattern(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// NodeInput is what an operator says of a node. Nil fields are not changed by an edit and are
// required or get their default when a node is added.
type NodeInput struct {
	Name             *string            `json:"name"`
	FQDN             *string            `json:"fqdn"`
	PublicAddresses  *[]string          `json:"public_addresses"`
	Location         *string            `json:"location"`
	CPUMillicores    *int64             `json:"cpu_millicores"`
	MemoryMiB        *int64             `json:"memory_mib"`
	DiskMiB          *int64             `json:"disk_mib"`
	OvercommitCPU    *int64             `json:"overcommit_cpu_percent"`
	OvercommitMemory *int64             `json:"overcommit_memory_percent"`
	OvercommitDisk   *int64             `json:"overcommit_disk_percent"`
	Labels           *map[string]string `json:"labels"`
}

// check returns what is wrong per field; create says that required ones must be there.
func (in *NodeInput) check(create bool) map[string]access.FieldError {
	bad := map[string]access.FieldError{}
	fault := func(field, code, message string) { bad[field] = access.FieldError{Code: code, Message: message} }
	if create {
		for field, missing := range map[string]bool{
			"name": in.Name == nil, "public_addresses": in.PublicAddresses == nil,
			"cpu_millicores": in.CPUMillicores == nil, "memory_mib": in.MemoryMiB == nil, "disk_mib": in.DiskMiB == nil,
		} {
			if missing {
				fault(field, "required", "This is needed.")
			}
		}
	}
	if in.Name != nil && !nodeName().MatchString(*in.Name) {
		fault("name", "invalid", "Use 1 to 64 small letters, digits, dots and dashes, beginning and ending with a letter or digit.")
	}
	if in.FQDN != nil && *in.FQDN != "" && !validHost(*in.FQDN) {
		fault("fqdn", "invalid", "This is not a host name, e.g. node1.example.com.")
	}
	if in.Location != nil && len([]rune(*in.Location)) > maxLocation {
		fault("location", "too_long", fmt.Sprintf("Use at most %d characters.", maxLocation))
	}
	in.checkAddresses(fault)
	in.checkLabels(fault)
	for _, n := range []struct {
		field    string
		value    *int64
		min, max int64
	}{
		{"cpu_millicores", in.CPUMillicores, minMillicores, maxMillicores},
		{"memory_mib", in.MemoryMiB, minMiB, maxMemoryMiB},
		{"disk_mib", in.DiskMiB, minMiB, maxDiskMiB},
		{"overcommit_cpu_percent", in.OvercommitCPU, minOvercommit, maxOvercommit},
		{"overcommit_memory_percent", in.OvercommitMemory, minOvercommit, maxOvercommit},
		{"overcommit_disk_percent", in.OvercommitDisk, minOvercommit, maxOvercommit},
	} {
		if n.value != nil && (*n.value < n.min || *n.value > n.max) {
			fault(n.field, "out_of_range", fmt.Sprintf("This must be between %d and %d.", n.min, n.max))
		}
	}
	return bad
}

func (in *NodeInput) checkAddresses(fault func(field, code, message string)) {
	if in.PublicAddresses == nil {
		return
	}
	list := *in.PublicAddresses
	if len(list) == 0 || len(list) > maxAddresses {
		fault("public_addresses", "count", fmt.Sprintf("Give 1 to %d addresses that players use.", maxAddresses))
		return
	}
	seen := map[string]bool{}
	for _, a := range list {
		if _, err := netip.ParseAddr(a); err != nil && !validHost(a) {
			fault("public_addresses", "invalid", fmt.Sprintf("%q is neither an IP address nor a host name.", clip(a, 64)))
			return
		}
		if seen[a] {
			fault("public_addresses", "duplicate", fmt.Sprintf("%q is there twice.", a))
			return
		}
		seen[a] = true
	}
}

func (in *NodeInput) checkLabels(fault func(field, code, message string)) {
	if in.Labels == nil {
		return
	}
	if len(*in.Labels) > maxLabels {
		fault("labels", "count", fmt.Sprintf("Use at most %d labels.", maxLabels))
		return
	}
	for k, v := range *in.Labels {
		if !labelName().MatchString(k) || len(v) > maxLabelBytes {
			fault("labels", "invalid", fmt.Sprintf("%q is not usable: names are small letters, digits and _ . / -, values have at most %d bytes.", clip(k, 64), maxLabelBytes))
			return
		}
	}
}

// CheckLabels says what is wrong with labels that an operator entered as JSON; nil when they are
// usable.
func CheckLabels(raw []byte) error {
	var in NodeInput
	if len(raw) > 0 && json.Unmarshal(raw, &in.Labels) != nil {
		return errors.New("labels are an object of names and texts")
	}
	var said error
	in.checkLabels(func(_, _, message string) { said = errors.New(message) })
	return said
}

func validHost(s string) bool { return len(s) <= 253 && hostName().MatchString(s) }

// put writes the input to the record. It was checked.
func (in *NodeInput) put(n *collections.Node) {
	set := func(to func(string), v *string) {
		if v != nil {
			to(strings.TrimSpace(*v))
		}
	}
	number := func(to func(int64), v *int64) {
		if v != nil {
			to(*v)
		}
	}
	set(n.SetName, in.Name)
	set(n.SetFQDN, in.FQDN)
	set(n.SetLocation, in.Location)
	number(n.SetCPUMillicores, in.CPUMillicores)
	number(n.SetMemoryMiB, in.MemoryMiB)
	number(n.SetDiskMiB, in.DiskMiB)
	number(n.SetOvercommitCPUPercent, in.OvercommitCPU)
	number(n.SetOvercommitMemoryPercent, in.OvercommitMemory)
	number(n.SetOvercommitDiskPercent, in.OvercommitDisk)
	if in.PublicAddresses != nil {
		n.SetPublicAddresses(*in.PublicAddresses)
	}
	if in.Labels != nil {
		n.SetLabels(*in.Labels)
	}
}

func nodeLocks(id string) []collections.Lock {
	return []collections.Lock{audit.Lock(""), incidents.Lock, nodeLock(id)}
}

// CreateNode adds a node that has still to join; token is for its join command.
func (f *Fleet) CreateNode(a audit.Actor, in NodeInput) (n *collections.Node, token string, err error) {
	if bad := in.check(true); len(bad) > 0 {
		return nil, "", access.Invalid(bad)
	}
	_, root, err := f.Authority()
	if err != nil {
		return nil, "", err
	}
	now := time.Now().UTC()
	err = collections.Tx(f.app, []collections.Lock{audit.Lock(""), "nodes"}, func(tx core.App) error {
		if err := nameFree(tx, *in.Name, ""); err != nil {
			return err
		}
		if n, err = collections.NewNode(tx); err != nil {
			return err
		}
		n.SetOvercommitCPUPercent(minOvercommit)
		n.SetOvercommitMemoryPercent(minOvercommit)
		n.SetOvercommitDiskPercent(minOvercommit)
		n.SetMode(modeActive)
		n.SetStatus(statusOffline)
		n.SetRev(1)
		in.put(n)
		if token, err = newJoinToken(n, root, now); err != nil {
			return err
		}
		if err := permit.Save(tx, n); err != nil {
			return fmt.Errorf("add node %s: %w", *in.Name, err)
		}
		return f.record(tx, a, "node.created", n, map[string]any{"name": n.Name()})
	})
	return n, token, err
}

func nameFree(tx core.App, name, except string) error {
	other, err := collections.One[collections.Node](tx, collections.Nodes, dbx.HashExp{"name": name})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	case other.Id == except:
		return nil
	}
	return errNameUsed
}

// change runs fn on a node in one transaction with the audit row and the event.
func (f *Fleet) change(a audit.Actor, id, kind string, details map[string]any, fn func(tx core.App, n *collections.Node) error) (n *collections.Node, err error) {
	if !wire.ValidID(id) {
		return nil, errNoNode
	}
	err = collections.Tx(f.app, append(nodeLocks(id), "nodes"), func(tx core.App) error {
		n, err = collections.FindNode(tx, id)
		if errors.Is(err, sql.ErrNoRows) {
			return errNoNode
		}
		if err != nil {
			return err
		}
		n.SetRev(n.Rev() + 1)
		if err := fn(tx, n); err != nil {
			return err
		}
		if err := permit.Save(tx, n); err != nil {
			return fmt.Errorf("change node %s: %w", id, err)
		}
		return f.record(tx, a, kind, n, details)
	})
	return n, err
}

// UpdateNode edits what is set in the input.
func (f *Fleet) UpdateNode(a audit.Actor, id string, in NodeInput) (*collections.Node, error) {
	if bad := in.check(false); len(bad) > 0 {
		return nil, access.Invalid(bad)
	}
	return f.change(a, id, "node.updated", in.changed(), func(tx core.App, n *collections.Node) error {
		if in.Name != nil {
			if err := nameFree(tx, *in.Name, n.Id); err != nil {
				return err
			}
		}
		in.put(n)
		return nil
	})
}

// changed lists what an edit sets, for the audit log.
func (in *NodeInput) changed() map[string]any {
	out := map[string]any{}
	text := func(k string, v *string) {
		if v != nil {
			out[k] = *v
		}
	}
	number := func(k string, v *int64) {
		if v != nil {
			out[k] = *v
		}
	}
	text("name", in.Name)
	text("fqdn", in.FQDN)
	text("location", in.Location)
	number("cpu_millicores", in.CPUMillicores)
	number("memory_mib", in.MemoryMiB)
	number("disk_mib", in.DiskMiB)
	number("overcommit_cpu_percent", in.OvercommitCPU)
	number("overcommit_memory_percent", in.OvercommitMemory)
	number("overcommit_disk_percent", in.OvercommitDisk)
	if in.PublicAddresses != nil {
		out["public_addresses"] = *in.PublicAddresses
	}
	if in.Labels != nil {
		out["labels"] = *in.Labels
	}
	return out
}

// SetMode is what the operator wants of a node: ACTIVE takes new servers, DRAINING keeps those that
// it has and takes none, MAINTENANCE says besides that its silence is expected.
func (f *Fleet) SetMode(a audit.Actor, id, mode string) (*collections.Node, error) {
	if mode != modeActive && mode != statusDraining && mode != statusMaintenance {
		return nil, access.InvalidField("mode", "unknown", "Use ACTIVE, DRAINING or MAINTENANCE.")
	}
	return f.change(a, id, "node.mode_changed", map[string]any{"mode": mode}, func(tx core.App, n *collections.Node) error {
		was := n.Mode()
		n.SetMode(mode)
		n.SetStatus(statusOf(mode, n.Status() != statusOffline))
		switch {
		case n.Status() != statusOffline || n.EnrolledAt().IsZero():
			return nil
		case mode == statusMaintenance:
			return f.cfg.Incidents.Resolve(tx, "node.offline:"+n.Id, "The node is in maintenance.")
		case was == statusMaintenance:
			return f.openSilence(tx, n) // its silence is not expected any more
		}
		return nil
	})
}

// JoinToken makes a new one-time token for a node; an older one ends. A node that has joined already
// keeps its identity until the new one is used.
func (f *Fleet) JoinToken(a audit.Actor, id string) (token string, expires time.Time, err error) {
	_, root, err := f.Authority()
	if err != nil {
		return "", time.Time{}, err
	}
	n, err := f.change(a, id, "node.join_token_created", nil, func(_ core.App, n *collections.Node) error {
		token, err = newJoinToken(n, root, time.Now().UTC())
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	return token, n.JoinExpiresAt(), nil
}

// DeleteNode removes a node with its certificates. It is refused while servers live there unless
// force is set; then what other rooms hold of it goes through Config.Forget.
func (f *Fleet) DeleteNode(a audit.Actor, id string, force bool) error {
	if !wire.ValidID(id) {
		return errNoNode
	}
	err := f.withServers(id, false, func(tx core.App, _ []string) error {
		n, err := collections.FindNode(tx, id)
		if errors.Is(err, sql.ErrNoRows) {
			return errNoNode
		}
		if err != nil {
			return err
		}
		servers, err := f.placements.PlacedOn(tx, id)
		if err != nil {
			return fmt.Errorf("count servers on node %s: %w", id, err)
		}
		if servers > 0 && !force {
			return access.Conflict("node_has_servers", fmt.Sprintf("%d servers live on this node. Move or delete them first, or delete the node by force: then their data is lost with it.", servers))
		}
		for _, forget := range f.cfg.Forget {
			if err := forget(tx, id); err != nil {
				return fmt.Errorf("forget node %s: %w", id, err)
			}
		}
		if err := f.removeIdentity(tx, n); err != nil {
			return err
		}
		if err := f.tellRevoked(tx, id); err != nil {
			return err
		}
		return f.record(tx, a, "node.deleted", n, map[string]any{"name": n.Name(), "servers": servers, "forced": force})
	})
	if err == nil {
		f.links.cut(id)
	}
	return err
}

// removeIdentity deletes a node's certificates, its row, and what is open about it.
func (f *Fleet) removeIdentity(tx core.App, n *collections.Node) error {
	certs, err := collections.Every[collections.NodeCertificate](tx, collections.NodeCertificates, "", 0, dbx.HashExp{"node": n.Id})
	if err != nil {
		return err
	}
	for _, c := range certs {
		if err := permit.Delete(tx, c); err != nil {
			return fmt.Errorf("delete certificate of node %s: %w", n.Id, err)
		}
	}
	for _, kind := range []string{"node.offline", "node.clock", "node.version", "node.events_lost", "node.event_skipped"} {
		if err := f.cfg.Incidents.Resolve(tx, kind+":"+n.Id, "The node was deleted."); err != nil {
			return err
		}
	}
	if _, err := tx.NonconcurrentDB().Delete(collections.NodeLinks, dbx.HashExp{"node": n.Id}).Execute(); err != nil {
		return fmt.Errorf("delete links of node %s: %w", n.Id, err)
	}
	// Not through PocketBase, which keeps a row for as long as another names it: servers that are gone
	// and allocations that were given back go on naming their node.
	if _, err := tx.NonconcurrentDB().Delete(collections.Nodes, dbx.HashExp{"id": n.Id}).Execute(); err != nil {
		return fmt.Errorf("delete node %s: %w", n.Id, err)
	}
	return nil
}

// LocalNode describes this machine for EnsureLocalNode.
type LocalNode struct {
	Name      string   // default "local"
	Addresses []string // that players use; default 127.0.0.1
	Capacity  wire.Capacity
	Identity  string // node id that this machine's wings has already, empty when it never joined
}

// ErrLocalNodeTaken is a local node whose name another machine's has, which is alive.
var ErrLocalNodeTaken = errors.New("another machine is the node of this name; give this one a name of its own with --node-name")

// EnsureLocalNode makes sure that this machine is a node, for `serve --local-node`. needJoin says
// that wings must join with the token: it never did, or is not who the row says. It may be called at
// every start. With other instances of the panel there are other machines, too: ErrLocalNodeTaken when
// the name is that of a node which is alive and not this one.
func (f *Fleet) EnsureLocalNode(in LocalNode) (nodeID, token string, needJoin bool, err error) {
	if in.Name == "" {
		in.Name = "local"
	}
	if len(in.Addresses) == 0 {
		in.Addresses = []string{net.IPv4(127, 0, 0, 1).String()}
	}
	n, err := collections.One[collections.Node](f.app, collections.Nodes, dbx.HashExp{"name": in.Name})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		n, token, err = f.CreateNode(audit.System, NodeInput{
			Name: &in.Name, PublicAddresses: &in.Addresses,
			CPUMillicores: &in.Capacity.CPUMillicores, MemoryMiB: &in.Capacity.MemoryMiB, DiskMiB: &in.Capacity.DiskMiB,
		})
		if err != nil {
			return "", "", false, fmt.Errorf("add this machine as a node: %w", err)
		}
		return n.Id, token, true, nil
	case err != nil:
		return "", "", false, err
	case !n.EnrolledAt().IsZero() && n.Id == in.Identity:
		return n.Id, "", false, nil
	}
	if live, err := f.live(); err != nil {
		return "", "", false, err
	} else if len(live) > 1 && time.Since(n.LastHeartbeat()) <= wire.OfflineAfter {
		return "", "", false, fmt.Errorf("node %s: %w", in.Name, ErrLocalNodeTaken)
	}
	token, _, err = f.JoinToken(audit.System, n.Id)
	return n.Id, token, err == nil, err
}
