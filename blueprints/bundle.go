package blueprints

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"unicode/utf8"
)

// Bundle is a blueprint folder, read and checked as a whole.
type Bundle struct {
	*Blueprint
	Source   []byte // blueprint.yaml as it is
	Icon     []byte // nil: none
	IconType string // "image/svg+xml" or "image/png"
}

// shipped holds the games that come with Mamba Host.
//
//go:embed games/*/blueprint.yaml games/*/icon.svg games/*/install.*
var shipped embed.FS

// Folder is a blueprint folder as it was read, not checked.
type Folder struct {
	Name  string            // of the folder, which is the blueprint's id
	Files map[string][]byte // by name; the caller does not change them
}

// ShippedFolders returns the folders of the games that come with Mamba Host, by name. The error is a
// broken build.
func ShippedFolders() ([]Folder, error) {
	var all []Folder
	err := fs.WalkDir(shipped, "games", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "games" {
			return err
		}
		if entry.IsDir() {
			all = append(all, Folder{Name: entry.Name(), Files: map[string][]byte{}})
			return nil
		}
		data, err := shipped.ReadFile(name)
		if err != nil {
			return err
		}
		all[len(all)-1].Files[entry.Name()] = data
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read shipped games: %w", err)
	}
	return all, nil
}

// Shipped returns the games that come with Mamba Host, by id. The error is a broken build.
func Shipped() ([]*Bundle, error) {
	folders, err := ShippedFolders()
	if err != nil {
		return nil, err
	}
	all := make([]*Bundle, 0, len(folders))
	for _, folder := range folders {
		sub, err := fs.Sub(shipped, path.Join("games", folder.Name))
		if err != nil {
			return nil, fmt.Errorf("open shipped game %s: %w", folder.Name, err)
		}
		bundle, err := Load(sub)
		if err != nil {
			return nil, fmt.Errorf("shipped game %s: %w", folder.Name, err)
		}
		if bundle.ID != folder.Name {
			return nil, fmt.Errorf("shipped game %s: its id is %q; folder and id must be the same", folder.Name, bundle.ID)
		}
		all = append(all, bundle)
	}
	return all, nil
}

// Load reads a blueprint folder. The error is Problems when the folder can be read and is at fault.
// fsys should not follow symbolic links out of the folder: pass os.Root.FS for a folder of somebody
// else's.
func Load(fsys fs.FS) (*Bundle, error) {
	if err := checkSize(fsys); err != nil {
		return nil, err
	}
	source, err := readBounded(fsys, FileName, MaxBytes+1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Problems{{File: FileName, Message: "is missing; a blueprint folder has one"}}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", FileName, err)
	}
	b, err := Parse(source, FileName)
	if err != nil {
		return nil, err
	}
	bundle := &Bundle{Blueprint: b, Source: source}
	v := &validation{b: b, file: FileName}
	bundle.loadIcon(fsys, v)
	bundle.loadScript(fsys, v)
	if err := v.problems.err(); err != nil {
		return nil, err
	}
	return bundle, nil
}

func (b *Bundle) loadIcon(fsys fs.FS, v *validation) {
	if b.Blueprint.Icon == "" {
		return
	}
	data, err := readBounded(fsys, b.Blueprint.Icon, MaxIconBytes)
	if err != nil {
		v.fault("icon", "%s", fileFault(b.Blueprint.Icon, err))
		return
	}
	kind, err := checkIcon(b.Blueprint.Icon, data)
	if err != nil {
		v.fault("icon", "%s %v", b.Blueprint.Icon, err)
		return
	}
	b.Icon, b.IconType = data, kind
}

func (b *Bundle) loadScript(fsys fs.FS, v *validation) {
	if b.Install == nil || b.Install.ScriptFile == "" {
		return
	}
	data, err := readBounded(fsys, b.Install.ScriptFile, MaxScriptBytes)
	switch {
	case err != nil:
		v.fault("install.script_file", "%s", fileFault(b.Install.ScriptFile, err))
	case !utf8.Valid(data) || strings.ContainsRune(string(data), 0):
		v.fault("install.script_file", "%s is not text", b.Install.ScriptFile)
	case strings.Contains(string(data), "\r\n"):
		v.fault("install.script_file", "%s has Windows line ends, which shells do not take; save it with LF", b.Install.ScriptFile)
	default:
		b.Install.Script = string(data)
	}
}

var errTooLarge = errors.New("too large")

// readBounded reads a regular file of at most limit bytes.
func readBounded(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
	}
	return data, nil
}

func fileFault(name string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return name + " is not in the folder"
	case errors.Is(err, errTooLarge):
		return name + " is " + err.Error()
	}
	return name + " cannot be read"
}

// checkSize bounds the folder as a whole.
func checkSize(fsys fs.FS) error {
	files, bytes := 0, int64(0)
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		files, bytes = files+1, bytes+info.Size()
		if files > MaxFolderFiles || bytes > MaxFolderBytes {
			return Problems{{File: name, Message: fmt.Sprintf("the folder holds more than %d files or %d bytes; keep only what the blueprint names", MaxFolderFiles, MaxFolderBytes)}}
		}
		return nil
	})
	var problems Problems
	if errors.As(err, &problems) {
		return problems
	}
	if err != nil {
		return fmt.Errorf("read blueprint folder: %w", err)
	}
	return nil
}
