package blueprints

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// CheckFolder reads the blueprint folder at path (or the folder of the blueprint.yaml at path) and
// returns what is wrong with it, with file names as they are found from here. The bundle is nil when
// there is anything. The error is a folder that cannot be read at all. Links that lead out of the
// folder are not followed.
func CheckFolder(path string) (*Bundle, Problems, error) {
	if info, err := os.Stat(path); err == nil && !info.IsDir() && filepath.Base(path) == FileName {
		path = filepath.Dir(path)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, nil, fmt.Errorf("open blueprint folder: %w", err)
	}
	defer root.Close()
	bundle, err := Load(root.FS())
	var problems Problems
	if err != nil && !errors.As(err, &problems) {
		return nil, nil, err
	}
	if err == nil {
		problems = wrongName(path, bundle)
	}
	for i := range problems {
		problems[i].File = filepath.Join(path, filepath.FromSlash(problems[i].File))
	}
	if len(problems) > 0 {
		return nil, problems, nil
	}
	return bundle, nil, nil
}

// wrongName reports a folder whose name is not the id: the panel finds blueprints by it.
func wrongName(path string, b *Bundle) Problems {
	absolute, err := filepath.Abs(path)
	if err != nil || filepath.Base(absolute) == b.ID {
		return nil
	}
	v := &validation{b: b.Blueprint, file: FileName}
	v.fault("id", "is %q, but the folder is named %q; give both the same name", b.ID, filepath.Base(absolute))
	return v.problems
}
