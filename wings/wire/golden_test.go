package wire_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/mambahost/mamba/wings/wire"
)

// messages is every type that crosses the link by itself, by the first word of its files in
// testdata/v1. What was written there once must be understood for as long as Version is 1.
var messages = map[string]func() any{
	"command":         func() any { return new(wire.Command) },
	"console_frame":   func() any { return new(wire.ConsoleFrame) },
	"console_input":   func() any { return new(wire.ConsoleInput) },
	"enrol_reply":     func() any { return new(wire.EnrolReply) },
	"enrol_request":   func() any { return new(wire.EnrolRequest) },
	"error":           func() any { return new(wire.Error) },
	"event_ack":       func() any { return new(wire.EventAck) },
	"event_batch":     func() any { return new(wire.EventBatch) },
	"heartbeat":       func() any { return new(wire.Heartbeat) },
	"heartbeat_reply": func() any { return new(wire.HeartbeatReply) },
	"hello":           func() any { return new(wire.Hello) },
	"hello_reply":     func() any { return new(wire.HelloReply) },
	"observed":        func() any { return new(wire.Observed) },
	"renew_request":   func() any { return new(wire.RenewRequest) },
	"sample_ack":      func() any { return new(wire.SampleAck) },
	"sample_batch":    func() any { return new(wire.SampleBatch) },
	"spec":            func() any { return new(wire.Spec) },
	"sync":            func() any { return new(wire.Sync) },
	"sync_reply":      func() any { return new(wire.SyncReply) },
}

// golden is one file: <message>.json or <message>-<what is special>.json.
type golden struct {
	name, message string
	raw           []byte
}

func goldens(t testing.TB) []golden {
	t.Helper()
	files, err := filepath.Glob("testdata/v1/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no messages in testdata/v1: %v", err)
	}
	var all []golden
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		message, _, _ := strings.Cut(name, "-")
		if messages[message] == nil {
			t.Fatalf("%s is of no message", file)
		}
		all = append(all, golden{name, message, raw})
	}
	return all
}

func TestEveryMessageIsReadAndWrittenAsItWas(t *testing.T) {
	t.Parallel()
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			v := messages[g.message]()
			strict := json.NewDecoder(bytes.NewReader(g.raw))
			strict.DisallowUnknownFields() // a field that was renamed or removed
			if err := strict.Decode(v); err != nil {
				t.Fatal(err)
			}
			out, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			if out = append(out, '\n'); !bytes.Equal(out, g.raw) {
				t.Errorf("it is written differently now:\n%s", out)
			}
		})
	}
}

// A peer that is newer sends fields that we do not know.
func TestUnknownFieldsOfANewerPeerAreIgnored(t *testing.T) {
	t.Parallel()
	for _, g := range goldens(t) {
		known, more := messages[g.message](), messages[g.message]()
		raw := bytes.Replace(g.raw, []byte("{"), []byte(`{"of_version_2":{"deep":[1]},`), 1)
		if err := json.Unmarshal(raw, more); err != nil {
			t.Errorf("%s: %v", g.name, err)
		}
		if err := json.Unmarshal(g.raw, known); err != nil || !reflect.DeepEqual(known, more) {
			t.Errorf("%s became %+v", g.name, more)
		}
	}
}

// Each field of each message is set in some file, so that none can change unseen.
func TestEveryFieldIsInAFile(t *testing.T) {
	t.Parallel()
	set, all := map[string]bool{}, map[string]bool{}
	for _, g := range goldens(t) {
		v := messages[g.message]()
		if err := json.Unmarshal(g.raw, v); err != nil {
			t.Fatal(err)
		}
		fields(reflect.ValueOf(v), func(field string, present bool) {
			all[field] = true
			set[field] = set[field] || present
		})
	}
	for field := range all {
		if !set[field] {
			t.Errorf("%s is set in no file of testdata/v1", field)
		}
	}
	for message := range messages {
		if _, err := os.Stat("testdata/v1/" + message + ".json"); err != nil && message != "console_frame" {
			t.Error(err)
		}
	}
}

// fields reports every field below v as Type.Name and whether it has a value.
func fields(v reflect.Value, report func(string, bool)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			fields(v.Elem(), report)
		}
	case reflect.Slice:
		for i := range v.Len() {
			fields(v.Index(i), report)
		}
	case reflect.Struct:
		if v.Type().PkgPath() != reflect.TypeFor[wire.Spec]().PkgPath() {
			return // time.Time
		}
		for i := range v.NumField() {
			report(v.Type().Name()+"."+v.Type().Field(i).Name, !v.Field(i).IsZero())
			fields(v.Field(i), report)
		}
	}
}

// A Spec that is taken from the wire and found valid stays so over as many hops as one likes.
func FuzzSpec(f *testing.F) {
	for _, g := range goldens(f) {
		if g.message == "spec" {
			f.Add(g.raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var first, second wire.Spec
		if json.Unmarshal(raw, &first) != nil || first.Validate() != nil {
			return
		}
		again, err := json.Marshal(&first)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(again, &second); err != nil {
			t.Fatal(err)
		}
		if err := second.Validate(); err != nil {
			t.Fatalf("valid before, not after: %v\n%s", err, again)
		}
		once, err := json.Marshal(&second)
		if err != nil || !bytes.Equal(once, again) {
			t.Fatalf("it changed on the way: %v\n%s\n%s", err, again, once)
		}
		for _, file := range second.Files {
			if !filepath.IsLocal(filepath.FromSlash(file.Path)) {
				t.Fatalf("a valid Spec names %q", file.Path)
			}
		}
	})
}

// Whatever a peer sends, each message is decoded or refused, and what was decoded can be sent on.
func FuzzMessages(f *testing.F) {
	var names []string
	for _, g := range goldens(f) {
		f.Add(g.message, g.raw)
		names = append(names, g.message)
	}
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		empty := messages[name]
		if empty == nil {
			empty = messages[names[len(name)%len(names)]]
		}
		first, second := empty(), empty()
		if json.Unmarshal(raw, first) != nil {
			return
		}
		again, err := json.Marshal(first)
		if err != nil {
			t.Fatalf("decoded and not encoded: %v", err)
		}
		if err := json.Unmarshal(again, second); err != nil {
			t.Fatalf("encoded and not decoded: %v\n%s", err, again)
		}
		if once, err := json.Marshal(second); err != nil || !bytes.Equal(once, again) {
			t.Fatalf("it changed on the way: %v\n%s\n%s", err, again, once)
		}
	})
}
