package hooks

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/security"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/hooks/cluster"
	"github.com/mambahost/mamba/hooks/fleet"
	"github.com/mambahost/mamba/hooks/jobs"
	"github.com/mambahost/mamba/hooks/notify"
	"github.com/mambahost/mamba/hooks/secrets"
	"github.com/mambahost/mamba/hooks/servers"
)

// sealed are all fields that hold sealed values. A room that seals a new field adds it here; a test
// fails when it does not.
var sealed = append([]secrets.Sealed{fleet.SealedKey, servers.SealedEnvironment, access.SealedTOTP}, notify.Sealed...)

// Purposes of derived keys. Those of tokens stay when data keys are rotated: they are wrapped by the
// master key, and a new one would sign everybody out.
const (
	purposeAudit    = "audit"
	purposeSettings = "settings"
	purposeIntent   = "intent" // intent and refresh tokens, rate limits
	purposeInvite   = "invite"
)

const (
	topicKeys  = "reload.keys"
	rotateKind = "RotateKeys"
	// SettingsKeyEnv is the variable by which PocketBase is given the key of its settings. It is set here
	// and by nobody else.
	SettingsKeyEnv = "MAMBA_SETTINGS_KEY"
)

// masterSource says where the master key is.
func (c *Config) masterSource(app core.App) secrets.Source {
	return secrets.Source{
		Key: os.Getenv("MAMBA_MASTER_KEY"), Old: os.Getenv("MAMBA_MASTER_KEY_OLD"),
		Command: os.Getenv("MAMBA_MASTER_KEY_COMMAND"), Name: os.Getenv("MAMBA_MASTER_KEY_NAME"),
		File: c.masterKeyFile(app),
	}
}

// keeper opens the keys as the panel does; a master key that is not there is not made.
func (c *Config) keeper(app core.App) (*secrets.Keeper, error) {
	master, err := c.masterSource(app).Open(func() (bool, error) { return false, nil })
	if err != nil {
		return nil, err
	}
	keeper, err := secrets.New(app, master)
	if err != nil {
		return nil, err
	}
	return keeper, keeper.Check(app)
}

// rotator rotates the keys of an app, in the panel or in a command.
type rotator struct {
	app    core.App
	keeper *secrets.Keeper
	audit  *audit.Log
	at     func(string) error // crash points of tests; nil: none
}

// rotate replaces the data keys, or wraps them with a new master key.
func (r *rotator) rotate(ctx context.Context, master bool, progress func(step string, done, all int)) (secrets.Took, error) {
	action := "keys.rotated"
	if master {
		action = "keys.master_replaced"
	}
	in := secrets.Rotation{
		Sealed: sealed, Derived: []string{purposeAudit, purposeSettings}, Progress: progress, At: r.at, Locks: []collections.Lock{audit.Lock("")},
		Anchor: func(ctx context.Context, app core.App) error {
			if err := r.audit.Anchor(ctx, app); err != nil {
				return err
			}
			if err := encryptSettings(app, r.keeper); err != nil {
				return err
			}
			return encryptProviders(app, r.keeper)
		},
		Done: func(tx core.App, took secrets.Took) error {
			return r.audit.Write(tx, audit.System, audit.Entry{Action: action, ResourceType: collections.DataKeies,
				Metadata: map[string]any{"scopes": took.Scopes, "values": took.Values}})
		},
	}
	if master {
		n, err := r.keeper.RotateMaster(ctx, r.app, in)
		return secrets.Took{Scopes: n}, err
	}
	return r.keeper.Rotate(ctx, r.app, in)
}

// rotateRequest is the payload of a RotateKeys job.
type rotateRequest struct {
	Master bool `json:"master"`
}

// handleRotate registers the job that rotates keys while the panel serves.
func (p *Panel) handleRotate() {
	p.Secrets.OnChanged(func(tx core.App) error { return p.Cluster.Publish(tx, topicKeys, nil) })
	p.Cluster.Subscribe(topicKeys, func(m cluster.Message) {
		if m.From == p.Cluster.ID() {
			return
		}
		if err := errors.Join(p.Secrets.Forget(), p.app.ReloadSettings()); err != nil {
			p.log.Error("rotated keys are not reloaded", "error", err)
		}
	})
	p.Jobs.Handle(rotateKind, jobs.Options{MaxAttempts: 20, Timeout: 6 * time.Hour}, func(ctx context.Context, run *jobs.Run) error {
		var in rotateRequest
		if err := run.Payload(&in); err != nil {
			return jobs.Permanent(err)
		}
		took, err := p.rotator().rotate(ctx, in.Master, func(step string, done, all int) { run.Progress(step, 100*done/max(all, 1), "") })
		if err != nil {
			return err
		}
		run.SetResult(took)
		return p.app.ReloadSettings()
	}, nil)
}

func (p *Panel) rotator() *rotator { return &rotator{app: p.app, keeper: p.Secrets, audit: p.Audit} }

// bindSettings gives PocketBase the key of its settings before it reads them. Where the app was made
// with another variable than ours the operator has a key of his own, and where none was set (tests)
// nothing is encrypted.
func bindSettings(app core.App, c *Config) {
	if ours(app) {
		_ = os.Unsetenv(app.EncryptionEnv()) // it cannot fail for a name like ours
	}
	app.OnSettingsReload().Bind(handler("mamba.settings.key", first, func(e *core.SettingsReloadEvent) error {
		if err := c.settingsKey(e.App); err != nil {
			return err
		}
		return e.Next()
	}))
}

func ours(app core.App) bool { return strings.HasPrefix(app.EncryptionEnv(), SettingsKeyEnv) }

// settingsKey finds the version of the key that the stored settings are encrypted with.
func (c *Config) settingsKey(app core.App) error {
	if !ours(app) {
		return nil
	}
	value, err := storedSettings(app)
	if err != nil || value == "" || json.Valid([]byte(value)) {
		return err
	}
	if os.Getenv(app.EncryptionEnv()) != "" {
		if _, err := security.Decrypt(value, os.Getenv(app.EncryptionEnv())); err == nil {
			return nil
		}
	}
	keeper, err := c.keeper(app)
	if err != nil {
		return fmt.Errorf("the settings (SMTP, S3 and the like) are encrypted: %w", err)
	}
	keys, err := keeper.Keys(purposeSettings)
	if err != nil {
		return err
	}
	for _, key := range keys.All() {
		if _, err := security.Decrypt(value, settingsText(key)); err == nil {
			return os.Setenv(app.EncryptionEnv(), settingsText(key))
		}
	}
	return fmt.Errorf("the settings (SMTP, S3 and the like) do not open with this installation's keys; restore the row of _params and data_keys from one backup: %w", secrets.ErrMasterKey)
}

// settingsText is a derived key in the 32 characters that PocketBase wants, of 6 bits each.
func settingsText(key []byte) string { return base64.RawURLEncoding.EncodeToString(key)[:32] }

func storedSettings(app core.App) (string, error) {
	var row struct {
		Value string `db:"value"`
	}
	err := app.DB().Select("value").From("_params").Where(dbx.HashExp{"id": "settings"}).One(&row)
	if err != nil {
		return "", fmt.Errorf("read the stored settings: %w", err)
	}
	return row.Value, nil
}

// encryptSettings makes the newest key the one of PocketBase's settings. Those that are in clear, or
// under an older key, are stored anew if nobody changed them meanwhile.
func encryptSettings(app core.App, keeper *secrets.Keeper) error {
	if !ours(app) {
		return nil
	}
	keys, err := keeper.Keys(purposeSettings)
	if err != nil {
		return err
	}
	newest := settingsText(keys.All()[0])
	for range 10 { // others may write at the same time
		before, err := storedSettings(app)
		if err != nil {
			return err
		}
		plain := []byte(before)
		if !json.Valid(plain) {
			if _, err := security.Decrypt(before, newest); err == nil {
				return os.Setenv(app.EncryptionEnv(), newest)
			}
			if plain, err = decryptSettings(before, keys.All()); err != nil {
				return err
			}
		}
		after, err := security.Encrypt(plain, newest)
		if err != nil {
			return fmt.Errorf("encrypt the settings: %w", err)
		}
		err = collections.Tx(app, nil, func(tx core.App) error {
			_, err := tx.NonconcurrentDB().Update("_params", dbx.Params{"value": after},
				dbx.NewExp("[[id]] = 'settings' AND CAST([[value]] AS TEXT) = {:before}", dbx.Params{"before": before})).Execute() // PocketBase stores bytes on SQLite
			return err
		})
		if err != nil {
			return fmt.Errorf("store the encrypted settings: %w", err)
		}
	}
	return errors.New("the settings are written again and again; they are not encrypted with the newest key")
}

func decryptSettings(text string, keys [][]byte) (plain []byte, err error) {
	for _, key := range keys {
		if plain, err = security.Decrypt(text, settingsText(key)); err == nil {
			return plain, nil
		}
	}
	return nil, fmt.Errorf("the stored settings do not open: %w", secrets.ErrMasterKey)
}
