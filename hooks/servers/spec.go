package servers

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/blueprints"
	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/alloc"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/wings/wire"
)

// variable is one stored value of a server's environment.
type variable struct {
	Value    string `json:"v"`
	Sealed   bool   `json:"s,omitempty"` // Value is a secret sealed by hooks/secrets
	Operator bool   `json:"o,omitempty"` // set by the operator: hidden and fixed variables may be, too
}

// environment is what servers.environment holds, by key.
type environment map[string]variable

func environmentOf(row *collections.Server) (environment, error) {
	env := environment{}
	if err := row.Environment(&env); err != nil {
		return nil, fmt.Errorf("environment of server %s: %w", row.Id, err)
	}
	return env, nil
}

// put stores a value, sealed when the blueprint calls it a secret.
func (s *Servers) put(tx core.App, row *collections.Server, env environment, b *blueprints.Blueprint, key, value string, operator bool) error {
	v := variable{Value: value, Operator: operator}
	if value != "" && slices.Contains(b.SecretKeys(), key) {
		sealed, err := s.Secrets.Seal(tx, row.Tenant(), variableRef(row, key), []byte(value))
		if err != nil {
			return fmt.Errorf("seal %s of server %s: %w", key, row.Id, err)
		}
		v.Value, v.Sealed = sealed, true
	}
	env[key] = v
	return nil
}

// SealedEnvironment is where secret variables are.
var SealedEnvironment = secrets.Sealed{Table: collections.Servers, Field: "environment",
	Each: func(value string, fn func(field, sealed string) (string, error)) (string, error) {
		env := environment{}
		if err := json.Unmarshal([]byte(value), &env); err != nil {
			return "", fmt.Errorf("decode an environment: %w", err)
		}
		for key, v := range env {
			if !v.Sealed {
				continue
			}
			next, err := fn("environment."+key, v.Value)
			if err != nil {
				return "", err
			}
			v.Value = next
			env[key] = v
		}
		raw, err := json.Marshal(env)
		return string(raw), err
	}}

func variableRef(row *collections.Server, key string) secrets.Ref {
	return secrets.Ref{Table: collections.Servers, Row: row.Id, Field: "environment." + key}
}

// values opens the environment: what the customer set and what the operator set.
func (s *Servers) values(app core.App, row *collections.Server) (customer, operator map[string]string, err error) {
	env, err := environmentOf(row)
	if err != nil {
		return nil, nil, err
	}
	customer, operator = map[string]string{}, map[string]string{}
	for key, v := range env {
		value := v.Value
		if v.Sealed {
			plain, err := s.Secrets.Open(app, row.Tenant(), variableRef(row, key), v.Value)
			if err != nil {
				return nil, nil, fmt.Errorf("open %s of server %s: %w", key, row.Id, err)
			}
			value = string(plain)
		}
		if v.Operator {
			operator[key] = value
		} else {
			customer[key] = value
		}
	}
	return customer, operator, nil
}

// spec compiles what the node is told about a server. One that was withdrawn and is gone from there has
// nothing to be told: ok is false.
func (s *Servers) spec(app core.App, row *collections.Server) (spec wire.Spec, ok bool, err error) {
	held, err := alloc.Of(app, row.Id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return wire.Spec{}, false, err
	}
	return s.specWith(app, row, held)
}

// specWith is spec with what is reserved for the server; nil: nothing.
func (s *Servers) specWith(app core.App, row *collections.Server, held *collections.Allocation) (spec wire.Spec, ok bool, err error) {
	if withdrawn(row) && gone(row) {
		return wire.Spec{}, false, nil
	}
	if wire.Desired(row.DesiredState()) == wire.DesiredAbsent || withdrawn(row) {
		return wire.Spec{
			ServerID: row.Id, TenantID: row.Tenant(), Name: row.Name(), PlacementEpoch: row.PlacementEpoch(),
			Generation: row.Generation(), Desired: wire.DesiredAbsent, DeleteID: row.DeleteID(),
		}, true, nil
	}
	if held == nil {
		return wire.Spec{}, false, nil
	}
	ports, err := portsOf(held)
	if err != nil {
		return wire.Spec{}, false, err
	}
	in, err := s.input(app, row, ports)
	if err != nil {
		return wire.Spec{}, false, err
	}
	spec, err = s.Catalog.Compile(app, row.BlueprintVersion(), in)
	if err != nil {
		return wire.Spec{}, false, fmt.Errorf("compile server %s: %w", row.Id, err)
	}
	return spec, true, nil
}

func (s *Servers) input(app core.App, row *collections.Server, ports []wire.Port) (blueprints.Input, error) {
	customer, operator, err := s.values(app, row)
	return blueprints.Input{
		ServerID: row.Id, TenantID: row.Tenant(), Name: row.Name(), Variant: row.Variant(),
		Variables: customer, Operator: operator, Ports: ports,
		Limits: wire.Limits{
			CPUMillicores: row.CPULimitMillicores(), MemoryMiB: row.MemLimitMB(), DiskMiB: row.DiskGB() << 10,
			PIDs: s.Defaults.PIDs, SwapMiB: s.Defaults.SwapMiB,
		},
		PlacementEpoch: row.PlacementEpoch(), Generation: row.Generation(), Desired: effective(row),
		RestartCount: row.RestartCount(), KillCount: row.KillCount(), ReinstallCount: row.ReinstallCount(),
	}, err
}

// ports returns what is reserved for a server; ok is false when nothing is.
func (s *Servers) ports(app core.App, server string) (ports []wire.Port, ok bool, err error) {
	held, err := alloc.Of(app, server)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	ports, err = portsOf(held)
	return ports, err == nil, err
}

// ordinal separates the name of a blueprint's port from the place of one number in a row of several:
// alloc knows each number by a name of its own.
const ordinal = "#"

// portNeeds is what a blueprint asks for, as alloc takes it.
func portNeeds(b *blueprints.Blueprint) []alloc.PortNeed {
	var needs []alloc.PortNeed
	for _, r := range b.PortRequests() {
		protocol := r.Protocols[0]
		if len(r.Protocols) > 1 {
			protocol = alloc.Both
		}
		needs = append(needs, alloc.PortNeed{Name: r.Name, Protocol: protocol, Prefer: r.HostHint, OffsetOf: r.OffsetFrom, Offset: r.Offset})
		for i := 1; i < r.Count; i++ {
			needs = append(needs, alloc.PortNeed{Name: r.Name + ordinal + strconv.Itoa(i), Protocol: protocol, OffsetOf: r.Name, Offset: i})
		}
	}
	return needs
}

// portsOf is what an allocation holds, under the blueprint's names.
func portsOf(held *collections.Allocation) ([]wire.Port, error) {
	var raw types.JSONRaw
	if err := held.Ports(&raw); err != nil {
		return nil, fmt.Errorf("ports of server %s: %w", held.Server(), err)
	}
	ports, err := portsIn(raw)
	if err != nil {
		return nil, fmt.Errorf("ports of server %s: %w", held.Server(), err)
	}
	return ports, nil
}

// portsIn reads what an allocation stores.
func portsIn(raw types.JSONRaw) ([]wire.Port, error) {
	ports := []wire.Port{}
	if err := decode(raw, &ports); err != nil {
		return nil, err
	}
	for i := range ports {
		ports[i].Name, _, _ = strings.Cut(ports[i].Name, ordinal)
	}
	return ports, nil
}
