package render

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

var update = flag.Bool("update", false, "write golden files anew")

// TestGolden applies the edits of each file in testdata/golden, and does so again with Windows line
// ends and without a last line end: the same has to come out, in the file's own way.
func TestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/golden/*.txtar")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d golden files: %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			format, _, _ := strings.Cut(name, "-")
			in, edits := archive.Files[0].Data, readEdits(t, archive.Files[1].Data)
			got := mustApply(t, format, in, edits)
			if *update {
				archive.Files[2].Data = got
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want := archive.Files[2].Data
			same(t, "as it is", want, got)
			same(t, "applied again", want, mustApply(t, format, got, edits))
			if len(in) == 0 {
				return
			}
			same(t, "with CRLF", crlf(want), mustApply(t, format, crlf(in), edits))
			same(t, "with a byte order mark", append([]byte("\ufeff"), want...), mustApply(t, format, append([]byte("\ufeff"), in...), edits))
			cut := bytes.TrimRight(in, "\n")
			if !bytes.HasSuffix(cut, []byte(`\`)) {
				same(t, "without a last line end", bytes.TrimSuffix(want, []byte("\n")), mustApply(t, format, cut, edits))
			}
		})
	}
}

func readEdits(t *testing.T, data []byte) []wire.Edit {
	t.Helper()
	var edits []wire.Edit
	for _, l := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		var e wire.Edit
		if err := json.Unmarshal([]byte(l), &e); err != nil {
			t.Fatal(err)
		}
		edits = append(edits, e)
	}
	return edits
}

func mustApply(t *testing.T, format string, in []byte, edits []wire.Edit) []byte {
	t.Helper()
	before := bytes.Clone(in)
	out, err := Apply(format, in, edits)
	if err != nil {
		t.Fatalf("%v\nin:\n%s", err, in)
	}
	if !bytes.Equal(before, in) {
		t.Error("the input was changed")
	}
	return out
}

func same(t *testing.T, what string, want, got []byte) {
	t.Helper()
	if !bytes.Equal(want, got) {
		t.Errorf("%s: want\n%q\ngot\n%q", what, want, got)
	}
}

func crlf(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }
