package blueprints

import "sort"

// Form is what the wizard and the settings page show. It holds nothing that a customer may not see:
// hidden variables and variants are absent, secrets come without a value.
type Form struct {
	ID             string         `json:"id"`
	Version        string         `json:"version"`
	Name           string         `json:"name"`
	Summary        string         `json:"summary"`
	Description    string         `json:"description"`
	Categories     []string       `json:"categories"`
	Features       []string       `json:"features"`
	Variants       []FormVariant  `json:"variants"`
	DefaultVariant string         `json:"default_variant"`
	Variables      []FormVariable `json:"variables"` // in the order to show them, basic ones first
	Ports          []FormPort     `json:"ports"`
	Resources      FormResources  `json:"resources"`
	ConsoleInput   string         `json:"console_input"` // stdin, rcon, none
}

// FormVariant is one choice of image.
type FormVariant struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// FormVariable is one field. Rules are told so that the form can check while typing; Compile decides.
type FormVariable struct {
	Key         string       `json:"key"`
	Name        string       `json:"name"`
	Description string       `json:"description"`
	Type        string       `json:"type"`
	Default     string       `json:"default"` // always empty for a secret
	Group       string       `json:"group"`
	Editable    bool         `json:"editable"`
	Required    bool         `json:"required"`
	Accepted    bool         `json:"accepted"` // has to be ticked
	Min         *int64       `json:"min,omitempty"`
	Max         *int64       `json:"max,omitempty"`
	MinLength   int64        `json:"min_length,omitempty"`
	MaxLength   int64        `json:"max_length,omitempty"`
	Regex       string       `json:"regex,omitempty"` // RE2; the whole value matches
	Message     string       `json:"message,omitempty"`
	Options     []FormOption `json:"options,omitempty"`
}

// FormOption is one choice of an enum.
type FormOption struct {
	Value string `json:"value"`
	Label string `json:"label"`
}

// FormPort says what will be reachable.
type FormPort struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Protocol    string `json:"protocol"` // tcp, udp, both
	Count       int64  `json:"count"`
}

// FormResources are hints; 0 is "not said".
type FormResources struct {
	CPUMillicores FormHint         `json:"cpu_millicores"`
	MemoryMiB     FormHint         `json:"memory_mib"`
	DiskMiB       FormHint         `json:"disk_mib"`
	Players       []FormPlayerHint `json:"players"` // rising
}

// FormHint is how much of something the game needs.
type FormHint struct {
	Minimum     int64 `json:"minimum"`
	Recommended int64 `json:"recommended"`
}

// FormPlayerHint says how much memory about so many players need.
type FormPlayerHint struct {
	Players   int64 `json:"players"`
	MemoryMiB int64 `json:"memory_mib"`
}

// Form describes the blueprint to a customer. Lists are never nil.
func (b *Blueprint) Form() Form {
	chosen, _ := b.Variant("")
	f := Form{
		ID: b.ID, Version: b.Version, Name: b.Name, Summary: b.Summary, Description: b.Description,
		Categories: append([]string{}, b.Categories...), Features: append([]string{}, b.Features...),
		Variants: []FormVariant{}, DefaultVariant: chosen.ID, Variables: []FormVariable{}, Ports: []FormPort{},
		Resources: FormResources{
			CPUMillicores: FormHint(b.Resources.CPUMillicores), MemoryMiB: FormHint(b.Resources.MemoryMiB),
			DiskMiB: FormHint(b.Resources.DiskMiB), Players: []FormPlayerHint{},
		},
		ConsoleInput: b.Console.Input,
	}
	for _, v := range b.Variants {
		if !v.Hidden {
			f.Variants = append(f.Variants, FormVariant{v.ID, v.Name})
		}
	}
	for _, v := range b.formVariables() {
		f.Variables = append(f.Variables, v.form())
	}
	for _, p := range b.Ports {
		f.Ports = append(f.Ports, FormPort{p.Name, p.Description, p.Protocol, max(p.Count, 1)})
	}
	for _, p := range b.Resources.Players {
		f.Resources.Players = append(f.Resources.Players, FormPlayerHint(p))
	}
	return f
}

func (b *Blueprint) formVariables() []Variable {
	var visible []Variable
	for _, v := range b.Variables {
		if v.UserView {
			visible = append(visible, v)
		}
	}
	sort.SliceStable(visible, func(i, j int) bool {
		if visible[i].Group != visible[j].Group {
			return visible[i].Group == "basic"
		}
		return visible[i].Order < visible[j].Order
	})
	return visible
}

func (v Variable) form() FormVariable {
	f := FormVariable{
		Key: v.Key, Name: v.Name, Description: v.Description, Type: v.Type, Default: string(v.Default), Group: v.Group,
		Editable: v.UserEdit, Required: v.Rules.Required, Accepted: v.Rules.Accepted, Min: v.Rules.Min, Max: v.Rules.Max,
		Regex: v.Rules.Regex, Message: v.Rules.Message,
	}
	switch v.Type {
	case TypeSecret:
		f.Default = ""
		f.MinLength, f.MaxLength = v.Rules.MinLength, v.Rules.MaxLength
	case TypeString:
		f.MinLength, f.MaxLength = v.Rules.MinLength, v.Rules.MaxLength
	}
	for _, o := range v.Rules.In {
		f.Options = append(f.Options, FormOption{string(o.Value), o.Text()})
	}
	return f
}
