package secrets

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
)

// Bounds of what a key management command may take and say.
const (
	commandTimeout = 20 * time.Second
	maxWrappedText = 4 << 10
	maxMasters     = 4 // in one file or variable
)

// Source says where the master keys of an installation are: the first is the one that wraps, older
// ones only unwrap, until a rotation of the master key has left them without use.
type Source struct {
	Key     string // MAMBA_MASTER_KEY: base64 of 32 bytes
	Old     string // MAMBA_MASTER_KEY_OLD: more of them, separated by commas
	Command string // MAMBA_MASTER_KEY_COMMAND: asks a key management service
	Name    string // MAMBA_MASTER_KEY_NAME: of the service's key; default "kms"
	File    string // read when neither Key nor Command is set; one key a line, the one that wraps first
}

// Open returns the master keys. A missing file is created only if mayCreate says so (see Unused).
// Refusals wrap ErrMasterKey.
func (s Source) Open(mayCreate func() (bool, error)) (Master, error) {
	first, err := s.load(mayCreate)
	if err != nil {
		return nil, err
	}
	return &ring{masters: first, load: func() ([]Master, error) { return s.load(func() (bool, error) { return false, nil }) }}, nil
}

// InFile says whether the key is one that RotateFile can replace.
func (s Source) InFile() bool {
	return strings.TrimSpace(s.Key) == "" && strings.TrimSpace(s.Command) == ""
}

func (s Source) load(mayCreate func() (bool, error)) ([]Master, error) {
	if strings.TrimSpace(s.Key) != "" && strings.TrimSpace(s.Command) != "" {
		return nil, fmt.Errorf("MAMBA_MASTER_KEY and MAMBA_MASTER_KEY_COMMAND are both set; to move from the one to the other put the old key into MAMBA_MASTER_KEY_OLD: %w", ErrMasterKey)
	}
	var out []Master
	switch {
	case strings.TrimSpace(s.Command) != "":
		out = append(out, &commandMaster{command: s.Command, name: s.Name})
	case strings.TrimSpace(s.Key) != "":
		m, err := LoadMaster(s.Key, "", nil)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	default:
		keys, err := readKeyFile(s.File)
		if errors.Is(err, fs.ErrNotExist) {
			keys, err = createKeyFile(s.File, mayCreate)
		}
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			m, err := NewMaster(key)
			if err != nil {
				return nil, err
			}
			out = append(out, m)
		}
	}
	for text := range strings.SplitSeq(s.Old, ",") {
		if strings.TrimSpace(text) == "" {
			continue
		}
		key, err := decodeKey(text)
		if err != nil {
			return nil, fmt.Errorf("MAMBA_MASTER_KEY_OLD has to be base64 of 32 bytes, several separated by commas: %w", err)
		}
		m, err := NewMaster(key)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// ring is a Master with older ones behind it.
type ring struct {
	load func() ([]Master, error)

	mu      sync.Mutex
	masters []Master // the first wraps; guarded by mu, the slice is never changed in place
}

func (r *ring) all() []Master {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.masters
}

// Wrap looks at the source first: a key that came in front since is the one to wrap with, because the
// others will be gone some day.
func (r *ring) Wrap(plain, bind []byte) ([]byte, error) {
	if err := r.Reload(); err != nil {
		return nil, err
	}
	return r.all()[0].Wrap(plain, bind)
}

func (r *ring) Unwrap(wrapped, bind []byte) (plain []byte, err error) {
	var errs []error
	for _, m := range r.all() {
		if plain, err = m.Unwrap(wrapped, bind); err == nil {
			return plain, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (r *ring) ID() string { return r.all()[0].ID() }

func (r *ring) Derive(purpose string) []byte { return r.all()[0].Derive(purpose) }

// Knows says whether it can unwrap what the master of that id wrapped, after a look at the source for
// keys that came there since: a running panel needs no restart to learn of a new one.
func (r *ring) Knows(id string) bool {
	if knows(r.all(), id) {
		return true
	}
	fresh, err := r.load()
	if err != nil || !knows(fresh, id) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.masters = fresh
	return true
}

// Reload reads the source again.
func (r *ring) Reload() error {
	fresh, err := r.load()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.masters = fresh
	return nil
}

func knows(masters []Master, id string) bool {
	for _, m := range masters {
		if m.ID() == id {
			return true
		}
	}
	return false
}

// commandMaster asks a command, which asks a key management service. The service sees a fresh key only
// and never the data: that is encrypted here under this key, so that its place is authenticated
// whatever the service does with its context.
type commandMaster struct{ command, name string }

func (m *commandMaster) ID() string {
	if m.name == "" {
		return "command:kms"
	}
	return "command:" + m.name
}

// Derive cannot be had from a service; the keeper makes random keys instead and wraps them.
func (m *commandMaster) Derive(string) []byte { return nil }

func (m *commandMaster) Wrap(plain, bind []byte) ([]byte, error) {
	key := make([]byte, masterKeyBytes)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	text, err := m.run("wrap", bind, base64.StdEncoding.EncodeToString(key))
	if err != nil {
		return nil, err
	}
	if text == "" || len(text) > maxWrappedText {
		return nil, fmt.Errorf("the key command answered %d bytes to wrap, want 1 to %d: %w", len(text), maxWrappedText, ErrMasterKey)
	}
	gcm, err := subtle.NewAESGCM(key)
	if err != nil {
		return nil, err
	}
	sealed, err := gcm.Encrypt(plain, bind)
	if err != nil {
		return nil, err
	}
	out := binary.BigEndian.AppendUint16(nil, uint16(len(text)))
	return append(append(out, text...), sealed...), nil
}

func (m *commandMaster) Unwrap(wrapped, bind []byte) ([]byte, error) {
	if len(wrapped) < 2 || len(wrapped) < 2+int(binary.BigEndian.Uint16(wrapped)) {
		return nil, fmt.Errorf("not wrapped by a key command: %w", ErrMasterKey)
	}
	n := 2 + int(binary.BigEndian.Uint16(wrapped))
	text, err := m.run("unwrap", bind, string(wrapped[2:n]))
	if err != nil {
		return nil, err
	}
	key, err := decodeKey(text)
	if err != nil {
		return nil, fmt.Errorf("the key command's answer to unwrap is not what it was given to wrap: %w", err)
	}
	gcm, err := subtle.NewAESGCM(key)
	if err != nil {
		return nil, err
	}
	return gcm.Decrypt(wrapped[n:], bind)
}

// run gives the command its text on standard input. What the command says on standard error is for the
// operator; what it prints on standard output is a secret and is in no error.
func (m *commandMaster) run(op string, bind []byte, in string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", m.command)
	cmd.Env = append(os.Environ(), "MAMBA_KMS_OP="+op, "MAMBA_KMS_CONTEXT="+base64.StdEncoding.EncodeToString(bind))
	cmd.Stdin = strings.NewReader(in)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String())
		if len(said) > 300 {
			said = said[:300]
		}
		return "", fmt.Errorf("the key command (MAMBA_MASTER_KEY_COMMAND) did not %s a key: %w: %s: %w", op, err, said, ErrMasterKey)
	}
	return strings.TrimSpace(stdout.String()), nil
}

// RotateFile puts a new key in front of those of the file, all at once or not at all. A file that has
// more than one key already is left as it is: a rotation is under way.
func RotateFile(path string) error {
	keys, err := readKeyFile(path)
	if err != nil || len(keys) > 1 {
		return err
	}
	key := make([]byte, masterKeyBytes)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("make a master key: %w", err)
	}
	return writeKeyFile(path, append([][]byte{key}, keys...))
}

// SettleFile leaves the first key in the file. The others go to files beside it, one each, named
// <file>.old-<id>: backups of the database from before need them.
func SettleFile(path string) error {
	keys, err := readKeyFile(path)
	if err != nil || len(keys) < 2 {
		return err
	}
	for _, key := range keys[1:] {
		m, err := NewMaster(key)
		if err != nil {
			return err
		}
		if err := writeKeyFile(path+".old-"+m.ID(), [][]byte{key}); err != nil {
			return err
		}
	}
	if err := writeKeyFile(path, keys[:1]); err != nil {
		return err
	}
	return tidyKeyFiles(filepath.Dir(path))
}

// tidyKeyFiles removes what a kill left of a write: keys are in it. What is younger may be in use.
func tidyKeyFiles(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, ".master-*"))
	if err != nil {
		return err
	}
	for _, f := range left {
		info, err := os.Stat(f)
		if err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		if err := os.Remove(f); err != nil {
			return fmt.Errorf("remove the rest of a key file: %w", err)
		}
	}
	return nil
}

// writeKeyFile replaces a file whole: temp, fsync, rename, fsync of the folder.
func writeKeyFile(path string, keys [][]byte) error {
	var text strings.Builder
	for _, key := range keys {
		text.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".master-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write the master key file: %w", err)
	}
	defer os.Remove(f.Name()) // gone already after the rename
	_, err = f.WriteString(text.String())
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write the master key file: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync the folder of the master key: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
