package blueprints

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/mambahost/mamba/wings/wire"
)

// Input is what a server adds to its blueprint.
type Input struct {
	ServerID string // 15 characters [a-z0-9]
	TenantID string
	Name     string // as the customer named it
	Variant  string // empty: the default one

	Variables map[string]string // by the customer; hidden and fixed ones are refused
	Operator  map[string]string // by the operator; any; wins over Variables

	Limits wire.Limits
	Ports  []wire.Port // as PortRequests asked: Name, HostIP, HostPort and Protocol; ContainerPort is filled in

	PlacementEpoch int64
	Generation     int64
	Desired        wire.Desired // running or stopped
	RestartCount   int64
	KillCount      int64
	ReinstallCount int64
}

// ErrVariant is a variant that the blueprint has not.
var ErrVariant = errors.New("the game has no such variant")

// Compile turns a blueprint and what a server adds into the Spec that a node gets. It is a pure
// function: the same input gives the same Spec.
//
// The error is VariableErrors when the customer can repair it (one sentence per variable), ErrVariant
// for an unknown variant; anything else is a fault of the caller. A Spec that comes back without an
// error passes wire.Spec.Validate.
func Compile(b *Blueprint, in Input) (wire.Spec, error) {
	variant, ok := b.Variant(in.Variant)
	if !ok {
		return wire.Spec{}, fmt.Errorf("variant %q of %s: %w", in.Variant, b.ID, ErrVariant)
	}
	if b.Install != nil && b.Install.ScriptFile != "" && b.Install.Script == "" && !variant.SkipInstall {
		return wire.Spec{}, fmt.Errorf("blueprint %s: %s was not loaded; use Load", b.ID, b.Install.ScriptFile)
	}
	values, faults := b.values(in.Variables, in.Operator)
	if in.Name == "" || len(in.Name) > MaxValueBytes || !controlFree(in.Name) {
		faults = append(faults, VariableError{"name", "The server's name must be one line without invisible characters."})
	}
	if len(faults) > 0 {
		return wire.Spec{}, faults
	}
	ports, err := b.BindPorts(in.Ports)
	if err != nil {
		return wire.Spec{}, fmt.Errorf("compile %s: %w", b.ID, err)
	}
	c := &compilation{b: b, in: in, variant: variant, refs: references(in, values, ports)}
	spec := c.spec(ports)
	if c.err != nil {
		return wire.Spec{}, fmt.Errorf("compile %s: %w", b.ID, c.err)
	}
	if err := spec.Validate(); err != nil {
		return wire.Spec{}, fmt.Errorf("compile %s: %w", b.ID, err)
	}
	if encoded, err := json.Marshal(spec); err != nil || len(encoded) > wire.MaxSpecBytes {
		return wire.Spec{}, fmt.Errorf("compile %s: the Spec has %d bytes, at most %d can be sent", b.ID, len(encoded), wire.MaxSpecBytes)
	}
	return spec, nil
}

// references is every placeholder with its value. Nothing else can be reached from a template.
func references(in Input, values map[string]string, ports []wire.Port) map[string]string {
	refs := map[string]string{
		"server.id":             in.ServerID,
		"server.name":           in.Name,
		"server.ip":             "",
		"server.memory_mib":     strconv.FormatInt(in.Limits.MemoryMiB, 10),
		"server.cpu_millicores": strconv.FormatInt(in.Limits.CPUMillicores, 10),
		"server.disk_mib":       strconv.FormatInt(in.Limits.DiskMiB, 10),
	}
	for key, value := range values {
		refs["var."+key] = value
	}
	for i, p := range ports {
		if i == 0 {
			refs["server.ip"] = p.HostIP
		}
		if _, known := refs["port."+p.Name]; !known { // the first of several
			refs["port."+p.Name] = strconv.Itoa(p.ContainerPort)
			refs["port."+p.Name+".host"] = strconv.Itoa(p.HostPort)
		}
	}
	return refs
}

// compilation fills one Spec. err is the first fault; a validated blueprint has none.
type compilation struct {
	b       *Blueprint
	in      Input
	variant Variant
	refs    map[string]string
	err     error
}

func (c *compilation) spec(ports []wire.Port) wire.Spec {
	b, in := c.b, c.in
	s := wire.Spec{
		ServerID: in.ServerID, TenantID: in.TenantID, Name: in.Name,
		PlacementEpoch: in.PlacementEpoch, Generation: in.Generation, Desired: in.Desired,
		RestartCount: in.RestartCount, KillCount: in.KillCount, ReinstallCount: in.ReinstallCount,
		Blueprint: wire.Blueprint{ID: b.ID, Version: b.Version},
		Image:     wire.Image{Ref: c.variant.Image, Builtin: c.variant.Builtin},
		WorkDir:   b.WorkDir,
		Limits:    in.Limits,
		Ports:     ports,
		Env:       c.fillAll(b.Env),
		Ready:     wire.Ready{LogRegex: b.Ready.Log, TimeoutS: b.Ready.TimeoutS},
		Stop:      wire.Stop{Kind: wire.StopCommand, Value: b.Stop.Command, TimeoutS: b.Stop.TimeoutS},
		Crash:     wire.CrashPolicy(b.Crash),
		Files:     c.files(),
		Install:   c.install(),
	}
	maps.Copy(s.Env, c.fillAll(c.variant.Env))
	if b.Stop.Signal != "" {
		s.Stop.Kind, s.Stop.Value = wire.StopSignal, b.Stop.Signal
	}
	for _, p := range ports {
		if p.Name == b.Ready.TCP && p.Protocol == wire.TCP && s.Ready.TCPPort == 0 {
			s.Ready.TCPPort = p.ContainerPort
		}
	}
	command, shell := b.Startup, b.StartupShell
	if !c.variant.Startup.Empty() {
		command, shell = c.variant.Startup, c.variant.StartupShell
	}
	if shell {
		script, env := c.template(command.Line).shell(c.refs)
		s.Command = []string{"/bin/sh", "-c", script}
		maps.Copy(s.Env, env)
	} else {
		s.Command = c.words(command)
	}
	return s
}

func (c *compilation) template(text string) template {
	t, err := c.b.parseTemplate(text)
	if err != nil && c.err == nil {
		c.err = fmt.Errorf("%q: %w", text, err)
	}
	return t
}

// words splits first and fills in afterwards, so a value is always one argument.
func (c *compilation) words(command Command) []string {
	words, err := command.Words()
	if err != nil && c.err == nil {
		c.err = err
	}
	filled := make([]string, len(words))
	for i, word := range words {
		filled[i] = c.template(word).fill(c.refs)
	}
	return filled
}

func (c *compilation) fillAll(env map[string]string) map[string]string {
	filled := map[string]string{}
	for key, text := range env {
		filled[key] = c.template(text).fill(c.refs)
	}
	return filled
}

func (c *compilation) files() []wire.ConfigFile {
	var files []wire.ConfigFile
	for _, f := range c.b.Files {
		file := wire.ConfigFile{Path: f.Path, Format: f.Format, Create: f.Create}
		typed := f.Format == "yaml" || f.Format == "json" || f.Format == "toml"
		for _, s := range f.Set {
			t := c.template(s.Template)
			edit := wire.Edit{Key: s.Key, Value: t.fill(c.refs)}
			if typed {
				edit.Kind = c.kind(t, s.Kind)
			}
			file.Edits = append(file.Edits, edit)
		}
		files = append(files, file)
	}
	return files
}

// kind of a value in a typed format: as the author wrote it, or as the one placeholder that it is.
// Text that a customer typed is never taken for a number.
func (c *compilation) kind(t template, written string) string {
	ref, ok := t.single()
	if !ok {
		return written
	}
	if len(ref) > 4 && ref[:4] == "var." {
		v, _ := c.b.Variable(ref[4:])
		switch {
		case c.refs[ref] == "":
			return "string"
		case v.Type == TypeInt:
			return "number"
		case v.Type == TypeBool:
			return "bool"
		}
		return "string"
	}
	if ref == "server.id" || ref == "server.name" || ref == "server.ip" {
		return "string"
	}
	return "number"
}

func (c *compilation) install() *wire.Install {
	in := c.b.Install
	if in == nil || c.variant.SkipInstall {
		return nil
	}
	image := wire.Image{Ref: in.Image, Builtin: in.Builtin}
	if image == (wire.Image{}) {
		image = wire.Image{Ref: c.variant.Image, Builtin: c.variant.Builtin}
	}
	limits := c.in.Limits
	for _, own := range []struct {
		to   *int64
		from int64
	}{{&limits.CPUMillicores, in.Limits.CPUMillicores}, {&limits.MemoryMiB, in.Limits.MemoryMiB}, {&limits.PIDs, in.Limits.PIDs}} {
		if own.from > 0 {
			*own.to = own.from
		}
	}
	return &wire.Install{
		Image: image, Entrypoint: c.words(in.Entrypoint), Script: in.Script, Env: c.fillAll(in.Env),
		TimeoutS: in.TimeoutS, Limits: limits, Network: in.Network,
	}
}
