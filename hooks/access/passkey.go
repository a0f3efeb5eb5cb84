package access

import (
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/wings/wire"
)

const (
	challengeLife       = 5 * time.Minute
	maxPasskeys         = 20 // of one person
	maxCredentialBytes  = 64 << 10
	defaultPasskeyName  = "Passkey"
	relyingName         = "Mamba Host"
	purposeRegister     = "register"
	purposeProve        = "prove"
	purposeCheckpoint   = "checkpoint"
	purposeSignIn       = "sign_in"
	passkeysUnavailable = "Passkeys need a panel that is reached by a name with https, or by localhost. Its operator sets that with --public-url."
)

// relyingParty is what passkeys are bound to: the origin of the public URL and its host. Nil without error when the
// URL has no name: browsers make no passkeys for addresses. A loopback address stands for localhost.
func relyingParty(public string) (*webauthn.WebAuthn, error) {
	u, err := url.Parse(public)
	if err != nil || u.Host == "" {
		return nil, nil
	}
	host := u.Hostname()
	if ip := net.ParseIP(host); ip != nil {
		if !ip.IsLoopback() {
			return nil, nil
		}
		host = "localhost"
	}
	if u.Scheme != "https" && host != "localhost" {
		return nil, nil // a browser refuses
	}
	origin := u.Scheme + "://" + host
	if u.Port() != "" {
		origin += ":" + u.Port()
	}
	resident := true
	w, err := webauthn.New(&webauthn.Config{
		RPID: host, RPDisplayName: relyingName, RPOrigins: []string{origin},
		AttestationPreference: protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey: protocol.ResidentKeyRequirementRequired, RequireResidentKey: &resident, UserVerification: protocol.VerificationRequired,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("access: passkeys for %s: %w", public, err)
	}
	return w, nil
}

// passkeyAnswer is what an authenticator answered to a challenge.
type passkeyAnswer struct {
	Challenge  string         `json:"challenge"` // id, as given with the options
	Credential jsontext.Value `json:"credential"`

	data webauthn.SessionData // set by takeChallenge
}

// person is an account as the WebAuthn library wants it.
type person struct {
	id, email, name string
	keys            []webauthn.Credential
}

func (p person) WebAuthnID() []byte                         { return []byte(p.id) }
func (p person) WebAuthnName() string                       { return p.email }
func (p person) WebAuthnDisplayName() string                { return p.name }
func (p person) WebAuthnCredentials() []webauthn.Credential { return p.keys }

func passkeysOf(app core.App, user string) ([]*collections.Passkey, error) {
	rows, err := collections.Every[collections.Passkey](app, collections.Passkeies, "created, id", maxPasskeys, dbx.HashExp{"user": user})
	if err != nil {
		return nil, fmt.Errorf("list the passkeys of %s: %w", user, err)
	}
	return rows, nil
}

func personOf(app core.App, user *core.Record) (person, error) {
	p := person{id: user.Id, email: user.Email(), name: user.GetString("name")}
	if p.name == "" {
		p.name = p.email
	}
	rows, err := passkeysOf(app, user.Id)
	if err != nil {
		return p, err
	}
	for _, row := range rows {
		var c webauthn.Credential
		if err := row.Credential(&c); err != nil {
			return p, fmt.Errorf("read passkey %s: %w", row.Id, err)
		}
		p.keys = append(p.keys, c)
	}
	return p, nil
}

// PasskeyView is a passkey as its owner sees it.
type PasskeyView struct {
	ID      string         `json:"id"`
	Name    string         `json:"name"`
	Created types.DateTime `json:"created"`
	Used    types.DateTime `json:"last_used"` // empty: never
}

func viewPasskey(k *collections.Passkey) PasskeyView {
	return PasskeyView{ID: k.Id, Name: k.Name(), Created: k.GetDateTime("created"), Used: k.GetDateTime("used_at")}
}

func (d *Access) relyingOn() (*webauthn.WebAuthn, error) {
	if d.relying == nil {
		return nil, Conflict("passkeys_unavailable", passkeysUnavailable)
	}
	return d.relying, nil
}

// challenge stores what has to be known when the answer comes, and returns its id.
func (d *Access) challenge(app core.App, purpose, holder, user string, data *webauthn.SessionData) (string, error) {
	var id string
	var locks []collections.Lock
	if user != "" {
		locks = []collections.Lock{userLock(user)}
	}
	err := collections.Tx(app, locks, func(tx core.App) error {
		if user != "" {
			if _, err := (Actor{Type: TypeUser, ID: user}).account(tx); err != nil {
				return err
			}
		}
		row, err := collections.NewPasskeyChallenge(tx)
		if err != nil {
			return err
		}
		raw, err := json.Marshal(data)
		if err != nil {
			return err
		}
		row.SetPurpose(purpose)
		row.SetHolder(holder)
		row.SetUser(user)
		row.SetData(types.JSONRaw(raw))
		row.SetExpiresAt(time.Now().Add(challengeLife))
		if err := permit.Save(tx, row); err != nil {
			return err
		}
		id = row.Id
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("store a challenge to %s: %w", purpose, err)
	}
	return id, nil
}

// takeChallenge takes the challenge that an answer is for away, whatever comes of the answer, and notes what has to be
// known of it. Nothing to do when p is nil.
func (d *Access) takeChallenge(app core.App, p *passkeyAnswer, purpose, holder string) error {
	if p == nil {
		return nil
	}
	if _, err := d.relyingOn(); err != nil {
		return err
	}
	if len(p.Credential) > maxCredentialBytes || !wire.ValidID(p.Challenge) {
		return wrongPasskey(nil)
	}
	return collections.Tx(app, nil, func(tx core.App) error {
		row, err := collections.FindPasskeyChallenge(tx, p.Challenge)
		if errors.Is(err, sql.ErrNoRows) {
			return wrongPasskey(err)
		}
		if err != nil {
			return fmt.Errorf("find a challenge: %w", err)
		}
		if row.Purpose() != purpose || row.Holder() != holder || !time.Now().Before(row.ExpiresAt()) {
			return wrongPasskey(errors.New("the challenge is for something else, or too old"))
		}
		res, err := tx.NonconcurrentDB().Delete(collections.PasskeyChallenges, dbx.HashExp{"id": row.Id}).Execute()
		if err != nil {
			return fmt.Errorf("take a challenge: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, wrongPasskey(nil))
		}
		p.data = webauthn.SessionData{}
		return row.Data(&p.data)
	})
}

func wrongPasskey(cause error) *Error {
	return InvalidField("passkey", "wrong", "This passkey was not accepted. Please try again.").Because(cause)
}

// registerOptions answers what a browser makes a passkey by.
func (d *Access) registerOptions(e *core.RequestEvent) error {
	a, err := customer(e)
	if err != nil {
		return err
	}
	relying, err := d.relyingOn()
	if err != nil {
		return err
	}
	if err := d.RequireProof(e.App, a); err != nil {
		return err
	}
	p, err := personOf(e.App, e.Auth)
	if err != nil {
		return err
	}
	options, data, err := relying.BeginRegistration(p, webauthn.WithExclusions(webauthn.Credentials(p.keys).CredentialDescriptors()))
	if err != nil {
		return fmt.Errorf("begin a passkey of %s: %w", a.ID, err)
	}
	id, err := d.challenge(e.App, purposeRegister, a.Session, a.ID, data)
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"challenge": id, "options": options.Response})
}

type registerInput struct {
	passkeyAnswer
	Name string `json:"name"`
}

// register keeps a new passkey. The first second factor of a person brings backup codes.
func (d *Access) register(e *core.RequestEvent) error {
	a, err := customer(e)
	if err != nil {
		return err
	}
	var in registerInput
	if err := Bind(e, &in); err != nil {
		return err
	}
	name, err := passkeyName(in.Name)
	if err != nil {
		return err
	}
	if err := d.RequireProof(e.App, a); err != nil {
		return err
	}
	if err := d.takeChallenge(e.App, &in.passkeyAnswer, purposeRegister, a.Session); err != nil {
		return err
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(in.Credential)
	if err != nil {
		return wrongPasskey(err)
	}
	var row *collections.Passkey
	var codes []string
	now := time.Now()
	err = collections.Tx(e.App, accountLocks(a.ID), func(tx core.App) error {
		if err := a.Still(tx); err != nil {
			return err
		}
		before, err := factorsOf(tx, a.ID)
		if err != nil {
			return err
		}
		if before.passkeys >= maxPasskeys {
			return Conflict("passkey_limit", fmt.Sprintf("You have %d passkeys, which is as many as one person may. Remove one first.", maxPasskeys))
		}
		p, err := personOf(tx, e.Auth)
		if err != nil {
			return err
		}
		made, err := d.relying.CreateCredential(p, in.data, parsed)
		if err != nil {
			return wrongPasskey(err)
		}
		if row, err = storePasskey(tx, a.ID, name, made); err != nil {
			return err
		}
		if err := d.noted(tx, a, "user.passkey_add", EventPasskeyAdded, map[string]any{"passkey": row.Id, "name": name, "first": !before.any()}); err != nil {
			return err
		}
		codes, err = d.factorGained(tx, a, before, now)
		return err
	})
	if err != nil {
		return err
	}
	return e.JSON(http.StatusCreated, map[string]any{"passkey": viewPasskey(row), "backup_codes": codes})
}

func storePasskey(tx core.App, user, name string, made *webauthn.Credential) (*collections.Passkey, error) {
	id := base64.RawURLEncoding.EncodeToString(made.ID)
	if _, err := collections.One[collections.Passkey](tx, collections.Passkeies, dbx.HashExp{"credential_id": id}); err == nil {
		return nil, Conflict("passkey_known", "This passkey is registered already.")
	} else if !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("look for a passkey: %w", err)
	}
	row, err := collections.NewPasskey(tx)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(made)
	if err != nil {
		return nil, fmt.Errorf("keep a passkey of %s: %w", user, err)
	}
	row.SetUser(user)
	row.SetName(name)
	row.SetCredentialID(id)
	row.SetCredential(types.JSONRaw(raw))
	if err := permit.Save(tx, row); err != nil {
		return nil, fmt.Errorf("store a passkey of %s: %w", user, err)
	}
	return row, nil
}

func passkeyName(text string) (string, error) {
	name, ok := CleanText(text, MaxNameLength)
	if !ok {
		return "", InvalidField("name", "name_invalid", "Please use at most 80 ordinary characters.")
	}
	if name == "" {
		name = defaultPasskeyName
	}
	return name, nil
}

func (d *Access) listPasskeys(e *core.RequestEvent) error {
	a, err := customer(e)
	if err != nil {
		return err
	}
	rows, err := passkeysOf(e.App, a.ID)
	if err != nil {
		return err
	}
	items := []PasskeyView{}
	for _, row := range rows {
		items = append(items, viewPasskey(row))
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items})
}

func ownPasskey(tx core.App, a Actor, id string) (*collections.Passkey, error) {
	missing := NotFound("passkey_not_found", "You have no such passkey.")
	if !wire.ValidID(id) {
		return nil, missing
	}
	row, err := collections.FindPasskey(tx, id)
	if errors.Is(err, sql.ErrNoRows) || err == nil && row.User() != a.ID {
		return nil, missing
	}
	if err != nil {
		return nil, fmt.Errorf("find passkey %s: %w", id, err)
	}
	return row, nil
}

type nameInput struct {
	Name string `json:"name"`
}

func (d *Access) renamePasskey(e *core.RequestEvent) error {
	a, err := customer(e)
	if err != nil {
		return err
	}
	var in nameInput
	if err := Bind(e, &in); err != nil {
		return err
	}
	if in.Name == "" {
		return InvalidField("name", "required", "Please enter a name.")
	}
	name, err := passkeyName(in.Name)
	if err != nil {
		return err
	}
	var row *collections.Passkey
	err = collections.Tx(e.App, accountLocks(a.ID), func(tx core.App) error {
		if row, err = ownPasskey(tx, a, e.Request.PathValue("passkey")); err != nil {
			return err
		}
		before := row.Name()
		row.SetName(name)
		if err := permit.Save(tx, row); err != nil {
			return fmt.Errorf("rename passkey %s: %w", row.Id, err)
		}
		return d.audit(tx, a, "user.passkey_rename", map[string]any{"passkey": row.Id, "from": before, "to": name})
	})
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, viewPasskey(row))
}

func (d *Access) removePasskey(e *core.RequestEvent) error {
	a, err := customer(e)
	if err != nil {
		return err
	}
	if err := d.RequireProof(e.App, a); err != nil {
		return err
	}
	err = collections.Tx(e.App, accountLocks(a.ID), func(tx core.App) error {
		row, err := ownPasskey(tx, a, e.Request.PathValue("passkey"))
		if err != nil {
			return err
		}
		if err := permit.Delete(tx, row); err != nil {
			return fmt.Errorf("remove passkey %s: %w", row.Id, err)
		}
		if err := d.noted(tx, a, "user.passkey_remove", EventPasskeyRemoved, map[string]any{"passkey": row.Id, "name": row.Name()}); err != nil {
			return err
		}
		return d.factorLost(tx, a, time.Now())
	})
	if err != nil {
		return err
	}
	return e.NoContent(http.StatusNoContent)
}

// proveOptions answers what a browser asks one's own passkeys by.
func (d *Access) proveOptions(e *core.RequestEvent) error {
	a, err := customer(e)
	if err != nil {
		return err
	}
	return d.askPasskey(e, e.Auth, purposeProve, a.Session)
}

// askPasskey answers a challenge to the passkeys of one person.
func (d *Access) askPasskey(e *core.RequestEvent, user *core.Record, purpose, holder string) error {
	relying, err := d.relyingOn()
	if err != nil {
		return err
	}
	p, err := personOf(e.App, user)
	if err != nil {
		return err
	}
	if len(p.keys) == 0 {
		return Conflict("no_passkey", "This account has no passkey.")
	}
	options, data, err := relying.BeginLogin(p)
	if err != nil {
		return fmt.Errorf("ask the passkeys of %s: %w", p.id, err)
	}
	id, err := d.challenge(e.App, purpose, holder, p.id, data)
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"challenge": id, "options": options.Response})
}

// clonedError is the cause of a refusal of a passkey whose counter went back.
type clonedError struct{ passkey, name string }

func (c clonedError) Error() string { return "the counter of passkey " + c.passkey + " went back" }

// spendPasskey checks an answer by a passkey of that person and counts it, in the caller's transaction.
func (d *Access) spendPasskey(tx core.App, user string, p *passkeyAnswer, now time.Time) error {
	parsed, err := protocol.ParseCredentialRequestResponseBytes(p.Credential)
	if err != nil {
		return wrongPasskey(err)
	}
	account, err := tx.FindRecordById("users", user)
	if err != nil {
		return fmt.Errorf("find the account of a passkey: %w", err)
	}
	who, err := personOf(tx, account)
	if err != nil {
		return err
	}
	var used *webauthn.Credential
	if len(p.data.UserID) > 0 {
		used, err = d.relying.ValidateLogin(who, p.data, parsed)
	} else {
		used, err = d.relying.ValidateDiscoverableLogin(func(_, handle []byte) (webauthn.User, error) {
			if string(handle) != user {
				return nil, errors.New("the passkey is another person's")
			}
			return who, nil
		}, p.data, parsed)
	}
	if err != nil {
		return wrongPasskey(err)
	}
	row, err := passkeyBy(tx, used.ID)
	if err != nil || row.User() != user {
		return errors.Join(err, wrongPasskey(nil))
	}
	if used.Authenticator.CloneWarning {
		return wrongPasskey(clonedError{row.Id, row.Name()})
	}
	raw, err := json.Marshal(used)
	if err != nil {
		return fmt.Errorf("keep passkey %s: %w", row.Id, err)
	}
	row.SetCredential(types.JSONRaw(raw))
	row.SetUsedAt(now)
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("count a use of passkey %s: %w", row.Id, err)
	}
	return nil
}

func passkeyBy(app core.App, id []byte) (*collections.Passkey, error) {
	return collections.One[collections.Passkey](app, collections.Passkeies, dbx.HashExp{"credential_id": base64.RawURLEncoding.EncodeToString(id)})
}

// afterCloned raises the alarm about a passkey that two have. What found it out was rolled back.
func (d *Access) afterCloned(app core.App, a Actor, refused error) error {
	var cloned clonedError
	if !errors.As(refused, &cloned) {
		return refused
	}
	err := collections.Tx(app, accountLocks(a.ID), func(tx core.App) error {
		return d.noted(tx, a, "user.passkey_cloned", EventPasskeyCloned, map[string]any{"passkey": cloned.passkey, "name": cloned.name})
	})
	return errors.Join(refused, err)
}

// signInOptions answers what a browser asks for any passkey of this panel by.
func (d *Access) signInOptions(e *core.RequestEvent) error {
	relying, err := d.relyingOn()
	if err != nil {
		return err
	}
	options, data, err := relying.BeginDiscoverableLogin()
	if err != nil {
		return fmt.Errorf("ask for a passkey: %w", err)
	}
	id, err := d.challenge(e.App, purposeSignIn, "", "", data)
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"challenge": id, "options": options.Response})
}

// signInByPasskey begins a session for a passkey that verified its holder: something one has, and what one knows or is.
func (d *Access) signInByPasskey(e *core.RequestEvent) error {
	var in passkeyAnswer
	if err := Bind(e, &in); err != nil {
		return err
	}
	success, err := d.attempt(e.App, "", e.RealIP())
	if err != nil {
		return err
	}
	if err := d.takeChallenge(e.App, &in, purposeSignIn, ""); err != nil {
		return err
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(in.Credential)
	if err != nil {
		return wrongPasskey(err)
	}
	row, err := passkeyBy(e.App, parsed.RawID)
	if err != nil {
		return wrongPasskey(err)
	}
	user, err := e.App.FindRecordById("users", row.User())
	if err != nil {
		return wrongPasskey(err)
	}
	a, err := actorOf(e, user)
	if err != nil {
		return err
	}
	err = collections.Tx(e.App, accountLocks(a.ID), func(tx core.App) error { return d.spendPasskey(tx, user.Id, &in, time.Now()) })
	if err := d.afterCloned(e.App, a, err); err != nil {
		return err
	}
	success()
	return d.passed(e, user, "passkey")
}
