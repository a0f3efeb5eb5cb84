package secrets

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
)

// masterKeyBytes is the length of a master key: 256 bits for AES-256-GCM and HKDF-SHA-256.
const masterKeyBytes = 32

// ErrMasterKey is what every refusal about the master key wraps: it is missing, malformed, readable
// by others, or not the one that this installation's data keys are wrapped with. The text around it
// says what to do.
var ErrMasterKey = errors.New("the master key cannot be used")

// Master wraps data keys: a local key, or a command that asks a key management service.
type Master interface {
	// Wrap encrypts a data key; bind is authenticated and has to be the same in Unwrap.
	Wrap(plain, bind []byte) ([]byte, error)
	// Unwrap is the inverse of Wrap; any error means: not our key, not this bind, or altered.
	Unwrap(wrapped, bind []byte) ([]byte, error)
	// ID is a public fingerprint of the key, at most 64 characters, the same on every start.
	ID() string
	// Derive returns 32 bytes that depend on the key and the purpose only; nil where that cannot be had.
	Derive(purpose string) []byte
}

// localMaster is a 32-byte key from the environment or a file. The key itself is used for nothing but
// HKDF, so that wrapping, the fingerprint and derived keys cannot meet.
type localMaster struct {
	key  []byte
	wrap *subtle.AESGCM
	id   string
}

// NewMaster makes a Master of a 32-byte key.
func NewMaster(key []byte) (Master, error) {
	if len(key) != masterKeyBytes {
		return nil, fmt.Errorf("a key of %d bytes, want %d: %w", len(key), masterKeyBytes, ErrMasterKey)
	}
	m := &localMaster{key: append([]byte(nil), key...)}
	m.id = hex.EncodeToString(m.expand("mamba master id")[:8])
	w, err := subtle.NewAESGCM(m.expand("mamba master wrap"))
	if err != nil {
		return nil, fmt.Errorf("make the wrapping key: %w", err)
	}
	m.wrap = w
	return m, nil
}

func (m *localMaster) Wrap(plain, bind []byte) ([]byte, error) { return m.wrap.Encrypt(plain, bind) }

func (m *localMaster) Unwrap(wrapped, bind []byte) ([]byte, error) {
	return m.wrap.Decrypt(wrapped, bind)
}

func (m *localMaster) ID() string { return m.id }

func (m *localMaster) Derive(purpose string) []byte { return m.expand("mamba derive " + purpose) }

func (m *localMaster) expand(info string) []byte {
	out, err := hkdf.Key(sha256.New, m.key, nil, info, masterKeyBytes)
	if err != nil {
		panic(err) // only for a length that HKDF cannot give; ours is constant
	}
	return out
}

// LoadMaster returns the master key from the environment's value (base64 of 32 bytes) or, when that
// is empty, from the file at path (the same text, mode 0600; see Source for more). A missing file is created only if
// mayCreate says so: pass Unused, because a new key beside existing data keys would lose them.
// Refusals wrap ErrMasterKey.
func LoadMaster(env, path string, mayCreate func() (bool, error)) (Master, error) {
	if strings.TrimSpace(env) != "" {
		key, err := decodeKey(env)
		if err != nil {
			return nil, fmt.Errorf("MAMBA_MASTER_KEY has to be base64 of 32 bytes (openssl rand -base64 32): %w", err)
		}
		return NewMaster(key)
	}
	return Source{File: path}.Open(mayCreate)
}

func decodeKey(text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(key) != masterKeyBytes {
		return nil, ErrMasterKey // the decoder's error would print part of the key
	}
	return key, nil
}

// readKeyFile returns the keys of a file, at least one.
func readKeyFile(path string) ([][]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("look at the master key file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > 1024 {
		return nil, fmt.Errorf("%s is not a key file: %w", path, ErrMasterKey)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, others can read it; run chmod 600 on it, and replace the key if they did: %w", path, mode, ErrMasterKey)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the master key file: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) > maxMasters {
		return nil, fmt.Errorf("%s holds %d keys, at most %d; remove the oldest: %w", path, len(lines), maxMasters, ErrMasterKey)
	}
	var keys [][]byte
	for _, line := range lines {
		key, err := decodeKey(line)
		if err != nil {
			return nil, fmt.Errorf("%s does not hold base64 of 32 bytes; restore it from its backup: %w", path, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// createKeyFile writes a new key beside path and links it into place, so that a crash leaves a whole
// file or none and two starts at once agree on one key.
func createKeyFile(path string, mayCreate func() (bool, error)) ([][]byte, error) {
	ok, err := mayCreate()
	if err != nil {
		return nil, fmt.Errorf("ask whether secrets exist already: %w", err)
	}
	if !ok {
		return nil, fmt.Errorf("%s is missing but this installation holds secrets; restore the file from its backup or set MAMBA_MASTER_KEY: %w", path, ErrMasterKey)
	}
	key := make([]byte, masterKeyBytes)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make a master key: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the master key: %w", err)
	}
	if err := linkNewFile(dir, path, base64.StdEncoding.EncodeToString(key)+"\n"); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return readKeyFile(path)
		}
		return nil, fmt.Errorf("write the master key file: %w", err)
	}
	return [][]byte{key}, nil
}

func linkNewFile(dir, path, text string) error {
	f, err := os.CreateTemp(dir, ".master-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
