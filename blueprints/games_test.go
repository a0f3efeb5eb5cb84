package blueprints

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/mambahost/mamba/wings/wire"
)

var update = flag.Bool("update", false, "write golden files, schema.json and docs/blueprints.md anew")

// mustShip returns a shipped game.
func mustShip(t *testing.T, id string) *Bundle {
	t.Helper()
	all, err := Shipped()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		if b.ID == id {
			return b
		}
	}
	t.Fatalf("no shipped game %q", id)
	return nil
}

// TestGames compiles every shipped game with each input of its testdata and compares the whole Spec.
func TestGames(t *testing.T) {
	t.Parallel()
	all, err := Shipped()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		files, err := filepath.Glob(filepath.Join("games", b.ID, "testdata", "*.txtar"))
		if err != nil || len(files) == 0 {
			t.Errorf("%s has no golden test: %v", b.ID, err)
		}
		for _, file := range files {
			t.Run(b.ID+"/"+strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
				t.Parallel()
				golden(t, b.Blueprint, file)
			})
		}
	}
}

func golden(t *testing.T, b *Blueprint, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var in Input
	if err := json.Unmarshal(archive.Files[0].Data, &in); err != nil {
		t.Fatal(err)
	}
	spec, err := Compile(b, in)
	if err != nil {
		t.Fatal(err)
	}
	got := indented(t, spec)
	if *update {
		archive.Files[1].Data = got
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want := archive.Files[1].Data; !bytes.Equal(want, got) {
		t.Errorf("the Spec differs from %s (-update writes it anew):\n%s", file, got)
	}
	var back wire.Spec
	if err := json.Unmarshal(got, &back); err != nil || back.Validate() != nil {
		t.Errorf("the Spec does not survive its encoding: %v, %v", err, back.Validate())
	}
}

func indented(t *testing.T, v any) []byte {
	t.Helper()
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestShippedGamesShowTheirFaceToCustomers(t *testing.T) {
	t.Parallel()
	all, err := Shipped()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 5 {
		t.Fatalf("%d games are shipped, 5 at least are promised", len(all))
	}
	for _, b := range all {
		if b.IconType != "image/svg+xml" || len(b.Icon) == 0 {
			t.Errorf("%s has no icon", b.ID)
		}
		f := b.Form()
		if len(f.Variants) == 0 || f.DefaultVariant == "" || f.Resources.MemoryMiB.Recommended == 0 || len(f.Resources.Players) == 0 {
			t.Errorf("%s: the form is not complete: %+v", b.ID, f)
		}
	}
}

func TestFormHoldsNothingHidden(t *testing.T) {
	t.Parallel()
	text := string(indented(t, mustShip(t, "demo").Form()))
	for _, absent := range []string{"INSTALL_EXIT", "installer", "null"} {
		if strings.Contains(text, absent) {
			t.Errorf("the form of demo shows %q:\n%s", absent, text)
		}
	}
	f := mustShip(t, "minecraft-vanilla").Form()
	for _, v := range f.Variants {
		if v.ID == "standin" {
			t.Error("the form offers the hidden variant")
		}
	}
	if f.Variables[0].Key != "EULA" || !f.Variables[0].Accepted || f.Variables[len(f.Variables)-1].Group != "advanced" {
		t.Errorf("the form is not in order: %+v", f.Variables)
	}
	for _, v := range mustShip(t, "valheim").Form().Variables {
		if v.Type == TypeSecret && v.Default != "" {
			t.Errorf("the form shows the default of the secret %s", v.Key)
		}
	}
}
