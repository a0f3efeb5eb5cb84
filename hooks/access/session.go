package access

import (
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/security"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/audit"
	"github.com/mambahost/mamba/wings/wire"
)

// Lifetimes of a session's tokens (SPEC §2).
const (
	AccessLife   = 15 * time.Minute
	SessionLife  = 30 * 24 * time.Hour // from its last refresh
	refreshGrace = 30 * time.Second    // a token that was turned in gets its successor again: two tabs, a lost answer
	maxGraced    = 32                  // turns within it that are remembered
	maxSessions  = 50                  // of one person; the one that was used longest ago makes room
)

// RefreshCookie is the cookie in which a browser keeps its refresh token. It goes to sessionsPath only,
// and no script reads it.
const (
	RefreshCookie = "mamba_refresh"
	sessionsPath  = "/api/v1/account/sessions"
)

// RefreshHeader asks for the refresh token in the answer to a sign-in, for clients without cookies.
const RefreshHeader = "X-Refresh-Token"

const (
	refreshDomain = "mamba-host refresh v1\x00" // keeps the key's other uses apart
	refreshPrefix = "mr1"
	claimSession  = "sid"
	claimTenant   = "tenant"
	sessionKey    = "mamba.access.session"
)

// Why a session has ended, as its row says.
const (
	endedSignOut  = "signed_out"
	endedByUser   = "by_user"
	endedPassword = "password"
	endedReuse    = "reuse"
	endedCrowded  = "crowded"
	endedFactor   = "factor" // a second factor was added or taken away elsewhere
)

// refreshToken is the one of a turn. It is computed, not stored: a session's row holds its hash, and whoever has
// only the database has no token.
func (d *Access) refreshToken(session string, turn int64) string {
	h := hmac.New(sha256.New, d.key)
	text := refreshPrefix + "." + session + "." + strconv.FormatInt(turn, 36)
	h.Write([]byte(refreshDomain + text))
	return text + "." + intentEncoding.EncodeToString(h.Sum(nil))
}

// turnOf reads a refresh token; ok is false for one that is not ours.
func (d *Access) turnOf(token string) (session string, turn int64, ok bool) {
	parts := strings.Split(token, ".")
	if len(token) > maxIntentBytes || len(parts) != 4 {
		return "", 0, false
	}
	turn, err := strconv.ParseInt(parts[2], 36, 64)
	if err != nil || turn < 1 {
		return "", 0, false
	}
	return parts[1], turn, hmac.Equal([]byte(token), []byte(d.refreshToken(parts[1], turn)))
}

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// accessToken is PocketBase's own kind of token, so that its doors take it, that lives shorter, names its session,
// and cannot be refreshed at PocketBase's own route.
func accessToken(user *core.Record, s *collections.Session, now time.Time) (string, time.Time, error) {
	token, err := security.NewJWT(jwt.MapClaims{
		core.TokenClaimType: core.TokenTypeAuth, core.TokenClaimId: user.Id, core.TokenClaimCollectionId: user.Collection().Id,
		core.TokenClaimRefreshable: false, claimSession: s.Id, claimTenant: s.Current(),
	}, user.TokenKey()+user.Collection().AuthToken.Secret, AccessLife)
	return token, now.Add(AccessLife), err
}

// SignedIn is the handler of OnRecordAuthRequest("users"): however somebody has signed in, he gets a
// session of ours instead of PocketBase's token, and before that, if he has a second factor, a checkpoint. PocketBase's own ways of a token without signing in end up here,
// too, and are refused: its refresh, and the impersonation that no audit row would tell of.
func (d *Access) SignedIn(e *core.RecordAuthRequestEvent) error {
	if e.AuthMethod == "" {
		return e.ForbiddenError("A session is renewed at "+sessionsPath+"/refresh, and nobody becomes somebody else here.", nil)
	}
	if e.Collection.MFA.Enabled { // it would be answered after the session has begun
		return e.ForbiddenError("PocketBase's second step must stay off for customers' accounts.", nil)
	}
	now := time.Now()
	var s *collections.Session
	var held *checkpoint
	err := collections.Tx(e.App, accountLocks(e.Record.Id), func(tx core.App) error {
		held = nil
		if err := unchanged(tx, e.Record); err != nil { // the password that was shown may be the old one by now
			return err
		}
		f, err := factorsOf(tx, e.Record.Id)
		if err != nil {
			return err
		}
		if f.any() && e.Get(passedKey) != e.Record.Id {
			if held, err = hold(tx, e.Record, e.AuthMethod, f, now); err != nil {
				return err
			}
			a, err := actorOf(e.RequestEvent, e.Record)
			if err != nil {
				return err
			}
			return d.audit(tx, a, "user.checkpoint", map[string]any{"method": e.AuthMethod})
		}
		strange, err := newPlace(tx, e.Record.Id, e.RealIP(), e.Request.UserAgent())
		if err != nil {
			return err
		}
		if s, err = d.begin(tx, e.Record, e.AuthMethod, e.RequestEvent, now); err != nil {
			return err
		}
		a, err := actorOf(e.RequestEvent, e.Record)
		if err != nil {
			return err
		}
		if strange && d.alarm != nil {
			details := map[string]any{"session": s.Id, "address": a.Address, "device": device(a.UserAgent)}
			if err := d.alarm(tx, a, "account.new_sign_in", details); err != nil {
				return err
			}
		}
		return d.auditor.Write(tx, a.Audit(), audit.Entry{Action: "user.sign_in", ResourceType: "users", Resource: e.Record.Id, Metadata: map[string]any{"session": s.Id, "method": e.AuthMethod}})
	})
	if errors.Is(err, errChanged) {
		return e.BadRequestError("This account has just changed. Please sign in again.", nil)
	}
	if err != nil {
		return fmt.Errorf("begin a session of %s: %w", e.Record.Id, err)
	}
	if held != nil {
		return afterCommit(e.App, func() error { return held.answer(e.RequestEvent) })
	}
	if e.Token, _, err = accessToken(e.Record, s, now); err != nil {
		return fmt.Errorf("make the token of session %s: %w", s.Id, err)
	}
	token := d.refreshToken(s.Id, s.Turn())
	if e.Request.Header.Get(RefreshHeader) == "" {
		e.SetCookie(d.refreshCookie(e.RequestEvent, token, now.Add(SessionLife)))
	} else {
		e.Response.Header().Set(RefreshHeader, token)
	}
	return e.Next()
}

// newPlace reports whether a person has signed in before, and never from this network or never with such a
// device. Sessions are known until they are purged.
func newPlace(app core.App, user, address, userAgent string) (bool, error) {
	rows, err := collections.Every[collections.Session](app, collections.Sessions, "turned_at DESC, id", maxRemembered, dbx.HashExp{"user": user})
	if err != nil {
		return false, fmt.Errorf("list the sessions of %s: %w", user, err)
	}
	if len(rows) == 0 {
		return false, nil // the first sign-in, after registering
	}
	sameNetwork, sameDevice := false, false
	for _, s := range rows {
		sameNetwork = sameNetwork || network(s.Address()) == network(address)
		sameDevice = sameDevice || device(s.UserAgent()) == device(userAgent)
	}
	return !sameNetwork || !sameDevice, nil
}

// maxRemembered is how many of a person's sessions are looked at for known places.
const maxRemembered = 200

// device is a user agent without its numbers: a browser that was updated is the same one.
func device(userAgent string) string {
	kept := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r == '.' || r == '_' {
			return -1
		}
		return r
	}, cut(userAgent, maxUserAgent))
	return strings.Join(strings.Fields(kept), " ")
}

func userLock(user string) collections.Lock { return collections.Lock("user:" + user) }

// begin stores a new session and ends the oldest of too many.
func (d *Access) begin(tx core.App, user *core.Record, method string, e *core.RequestEvent, now time.Time) (*collections.Session, error) {
	live, err := liveSessions(tx, user.Id, now)
	if err != nil {
		return nil, err
	}
	for i := maxSessions - 1; i < len(live); i++ {
		if err := end(tx, live[i].Id, endedCrowded, now); err != nil {
			return nil, err
		}
	}
	if len(live) >= maxSessions {
		if err := d.told(tx, user.Id); err != nil {
			return nil, err
		}
	}
	s, err := collections.NewSession(tx)
	if err != nil {
		return nil, err
	}
	s.Id = core.GenerateDefaultRandomId() // the token names it
	s.SetUser(user.Id)
	s.SetMethod(cut(method, 32))
	s.SetTurn(1)
	s.SetTokenHash(hashOf(d.refreshToken(s.Id, 1)))
	s.SetTurnedAt(now)
	s.SetExpiresAt(now.Add(SessionLife))
	s.SetProvenAt(now)
	s.SetAddress(cut(e.RealIP(), 64))
	s.SetUserAgent(cut(e.Request.UserAgent(), maxUserAgent))
	if err := permit.Save(tx, s); err != nil {
		return nil, fmt.Errorf("store the session: %w", err)
	}
	return s, nil
}

// turn gives a session its next refresh token; false when somebody was quicker or has ended it.
func (d *Access) turn(tx core.App, s *collections.Session, e *core.RequestEvent, now time.Time) (bool, error) {
	turns, err := turnsOf(s)
	if err != nil {
		return false, err
	}
	if i := slices.IndexFunc(turns, func(at int64) bool { return !graced(at, now) }); i >= 0 {
		turns = turns[:i]
	}
	before, err := json.Marshal(turns[:min(len(turns), maxGraced)])
	if err != nil {
		return false, fmt.Errorf("keep the turns of session %s: %w", s.Id, err)
	}
	return write(tx, s.Id, dbx.Params{
		"turn": s.Turn() + 1, "token_hash": hashOf(d.refreshToken(s.Id, s.Turn()+1)), "turned_at": collections.Stamp(now), "turned_before": string(before), "expires_at": collections.Stamp(now.Add(SessionLife)),
		"address": cut(e.RealIP(), 64), "user_agent": cut(e.Request.UserAgent(), maxUserAgent),
	}, dbx.HashExp{"turn": s.Turn()})
}

// turnsOf are the times at which the session's tokens were given, Unix milliseconds, the newest first: each is when the
// one before it was turned in. Those that nobody asks for any more are left out.
func turnsOf(s *collections.Session) ([]int64, error) {
	var before []int64
	if err := s.TurnedBefore(&before); err != nil {
		return nil, fmt.Errorf("read the turns of session %s: %w", s.Id, err)
	}
	return append([]int64{s.TurnedAt().UnixMilli()}, before...), nil
}

// graced says whether a token that was turned in at a time (Unix milliseconds) may come once more.
func graced(at int64, now time.Time) bool { return now.Sub(time.UnixMilli(at)) <= refreshGrace }

// liveSessions lists the sessions of a person that are neither revoked nor over, the last used first.
func liveSessions(app core.App, user string, now time.Time) ([]*collections.Session, error) {
	rows, err := collections.Every[collections.Session](app, collections.Sessions, "turned_at DESC, id", 0,
		dbx.HashExp{"user": user, "revoked_at": ""}, dbx.NewExp("[[expires_at]] > {:now}", dbx.Params{"now": collections.Stamp(now)}))
	if err != nil {
		return nil, fmt.Errorf("list the sessions of %s: %w", user, err)
	}
	return rows, nil
}

func isLive(s *collections.Session, now time.Time) bool {
	return s.RevokedAt().IsZero() && now.Before(s.ExpiresAt())
}

// write sets columns of a session if it goes on and where holds; false when not. One statement decides and writes,
// so that nobody turns a session that somebody else is ending.
func write(tx core.App, id string, set dbx.Params, where dbx.HashExp) (bool, error) {
	where["id"], where["revoked_at"] = id, ""
	set["updated"] = types.NowDateTime().String()
	res, err := tx.NonconcurrentDB().Update(collections.Sessions, set, where).Execute()
	if err != nil {
		return false, fmt.Errorf("write the session %s: %w", id, err)
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// end ends a session; it is told to Config.Ended by its caller, once for all that it ends.
func end(tx core.App, id, why string, now time.Time) error {
	_, err := write(tx, id, dbx.Params{"revoked_at": collections.Stamp(now), "revoked_why": why}, dbx.HashExp{})
	return err
}

// TokensVoided ends the sessions of an account whose tokens are void, in the transaction that made them so: a new
// password, a new address. Whoever did it himself goes on; see UserUpdateRequest.
func TokensVoided(tx core.App, user string) error {
	return collections.Tx(tx, []collections.Lock{userLock(user)}, func(tx core.App) error { // who signs in holds it
		now := time.Now()
		live, err := liveSessions(tx, user, now)
		if err != nil {
			return err
		}
		for _, s := range live {
			if err := end(tx, s.Id, endedPassword, now); err != nil {
				return err
			}
		}
		return nil
	})
}

// LoadSession is middleware for every route, after PocketBase has read the token: a token of a session that has
// ended is no token, and neither is one that is written in another way than it was given.
func (d *Access) LoadSession(e *core.RequestEvent) error {
	if e.Auth != nil && !asGiven(bearerToken(e.Request)) {
		e.Auth = nil
	}
	if e.Auth == nil || e.Auth.Collection().Name != "users" {
		return e.Next()
	}
	id, tenant := sessionClaims(e.Request)
	if id == "" {
		return e.Next() // none of a session: it was made by whoever runs the panel's code
	}
	s, err := sessionOf(e.App, id, e.Auth.Id)
	if err != nil {
		return err
	}
	if s == nil {
		e.Auth = nil
		return e.Next()
	}
	e.Set(sessionKey, bearer{session: id, tenant: tenant})
	return e.Next()
}

// bearer is what the token of a request says beside its account.
type bearer struct{ session, tenant string }

// asGiven says whether the signature of a token is encoded as it was made. Its last character has bits that no
// byte needs, and PocketBase reads it whatever they are.
func asGiven(token string) bool {
	_, err := base64.RawURLEncoding.Strict().DecodeString(token[strings.LastIndexByte(token, '.')+1:])
	return err == nil
}

// bearerToken is what a request says it was given.
func bearerToken(r *http.Request) string {
	token := r.Header.Get("Authorization")
	if len(token) > 7 && strings.EqualFold(token[:7], "Bearer ") {
		token = token[7:]
	}
	return token
}

// sessionClaims reads what a token names. PocketBase has checked it.
func sessionClaims(r *http.Request) (session, tenant string) {
	claims, err := security.ParseUnverifiedJWT(bearerToken(r))
	if err != nil {
		return "", ""
	}
	session, _ = claims[claimSession].(string)
	tenant, _ = claims[claimTenant].(string)
	return session, tenant
}

// sessionOf finds a session of a person that goes on; nil when there is none.
func sessionOf(app core.App, id, user string) (*collections.Session, error) {
	s, err := collections.FindSession(app, id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("find the session of a token: %w", err)
	}
	if err != nil || s.User() != user || !isLive(s, time.Now()) {
		return nil, nil
	}
	return s, nil
}

// SessionLives says whether a session of a person goes on; for what was begun in it and is to end with it.
func SessionLives(app core.App, id, user string) (bool, error) {
	s, err := sessionOf(app, id, user)
	return s != nil, err
}

func (d *Access) refreshCookie(e *core.RequestEvent, token string, until time.Time) *http.Cookie {
	c := &http.Cookie{Name: RefreshCookie, Value: token, Path: sessionsPath, Expires: until, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: d.secure || isSecure(e)}
	if token == "" {
		c.MaxAge = -1
	}
	return c
}

// isSecure reports whether the browser spoke TLS, to us or to a proxy that says so. A false claim only
// costs its maker the cookie.
func isSecure(e *core.RequestEvent) bool {
	return e.Request.TLS != nil || strings.EqualFold(e.Request.Header.Get("X-Forwarded-Proto"), "https")
}

func ended() *Error {
	return Unauthenticated("session_expired", "Your session has ended. Please sign in again.")
}

// refreshInput is the body of a refresh; a browser sends its cookie instead.
type refreshInput struct {
	Token string `json:"refresh_token"`
}

// refresh turns a refresh token in for the next one and an access token.
func (d *Access) refresh(e *core.RequestEvent) error {
	var in refreshInput
	if err := Bind(e, &in); err != nil {
		return err
	}
	byCookie := in.Token == ""
	if c, err := e.Request.Cookie(RefreshCookie); byCookie && err == nil {
		in.Token = c.Value
	}
	id, turn, ok := d.turnOf(in.Token)
	if !ok {
		return ended()
	}
	now := time.Now()
	var out struct {
		Token   string         `json:"token"`
		Expires types.DateTime `json:"expires_at"`
		Refresh string         `json:"refresh_token,omitempty"`
		Record  *core.Record   `json:"record"`
	}
	var stolen bool
	var next string
	err := collections.Tx(e.App, []collections.Lock{collections.Lock("session:" + id), audit.Lock("")}, func(tx core.App) error {
		stolen = false
		s, err := collections.FindSession(tx, id)
		if errors.Is(err, sql.ErrNoRows) {
			return ended()
		}
		if err != nil {
			return fmt.Errorf("find the session %s: %w", id, err)
		}
		user, err := tx.FindRecordById("users", s.User())
		if errors.Is(err, sql.ErrNoRows) || err == nil && !isLive(s, now) {
			return ended()
		}
		if err != nil {
			return fmt.Errorf("find the account of session %s: %w", id, err)
		}
		turns, err := turnsOf(s)
		if err != nil {
			return err
		}
		newest := s.Turn()
		back := newest - turn - 1 // how many tokens lie between it and the newest
		switch {
		case turn == newest:
			if done, err := d.turn(tx, s, e, now); err != nil || !done {
				return errors.Join(err, ended())
			}
			newest++
		case back >= 0 && back < int64(len(turns)) && graced(turns[back], now): // it gets the newest: a browser keeps one for all its tabs
		default: // older, so somebody else has it, too
			stolen = true
			return d.reused(tx, e, s, user, now)
		}
		next = d.refreshToken(id, newest)
		token, until, err := accessToken(user, s, now)
		if err != nil {
			return fmt.Errorf("make the token of session %s: %w", id, err)
		}
		out.Token, out.Record = token, user
		return out.Expires.Scan(until)
	})
	if err == nil && stolen {
		err = ended()
	}
	if err != nil {
		if byCookie {
			e.SetCookie(d.refreshCookie(e, "", time.Unix(0, 0)))
		}
		return err
	}
	if byCookie {
		e.SetCookie(d.refreshCookie(e, next, now.Add(SessionLife)))
	} else {
		out.Refresh = next
	}
	out.Record.IgnoreEmailVisibility(true)
	return e.JSON(http.StatusOK, out)
}

// reused ends a session whose old refresh token came again: either the thief or the owner has the new one.
func (d *Access) reused(tx core.App, e *core.RequestEvent, s *collections.Session, user *core.Record, now time.Time) error {
	if err := end(tx, s.Id, endedReuse, now); err != nil {
		return err
	}
	if err := d.told(tx, user.Id); err != nil {
		return err
	}
	a, err := actorOf(e, user)
	if err != nil {
		return err
	}
	if d.alarm != nil {
		if err := d.alarm(tx, a, "account.refresh_reused", map[string]any{"session": s.Id, "address": a.Address}); err != nil {
			return err
		}
	}
	return d.auditor.Write(tx, a.Audit(), audit.Entry{Action: "session.reuse", ResourceType: collections.Sessions, Resource: s.Id, Metadata: map[string]any{"turn": s.Turn()}})
}

// told says that sessions of a person have ended: what is open of him is to be asked about again.
func (d *Access) told(tx core.App, user string) error {
	if d.ended == nil {
		return nil
	}
	return d.ended(tx, user)
}

// SessionView is a session as its owner sees it.
type SessionView struct {
	ID        string         `json:"id"`
	Method    string         `json:"method"`
	Address   string         `json:"address"`
	UserAgent string         `json:"user_agent"`
	Created   types.DateTime `json:"created"`
	LastUsed  types.DateTime `json:"last_used"`
	Expires   types.DateTime `json:"expires_at"`
	Current   bool           `json:"current"` // it is the asker's
}

func (d *Access) sessions(e *core.RequestEvent) error {
	a, err := From(e)
	if err != nil {
		return err
	}
	live, err := liveSessions(e.App, a.ID, time.Now())
	if err != nil {
		return err
	}
	items := []SessionView{}
	for _, s := range live {
		items = append(items, SessionView{ID: s.Id, Method: s.Method(), Address: s.Address(), UserAgent: s.UserAgent(), Created: s.GetDateTime("created"),
			LastUsed: s.GetDateTime("turned_at"), Expires: s.GetDateTime("expires_at"), Current: s.Id == a.Session})
	}
	return e.JSON(http.StatusOK, map[string]any{"items": items})
}

// endSession ends a session of one's own; "current" is that of the token.
func (d *Access) endSession(e *core.RequestEvent) error {
	a, err := From(e)
	if err != nil {
		return err
	}
	id, why := e.Request.PathValue("session"), endedByUser
	if id == "current" || id == a.Session {
		id, why = a.Session, endedSignOut
		e.SetCookie(d.refreshCookie(e, "", time.Unix(0, 0)))
	}
	if !wire.ValidID(id) {
		return noSession()
	}
	err = collections.Tx(e.App, []collections.Lock{collections.Lock("session:" + id), audit.Lock("")}, func(tx core.App) error {
		s, err := sessionOf(tx, id, a.ID)
		if err == nil && s == nil {
			err = noSession()
		}
		if err != nil {
			return err
		}
		if err := end(tx, s.Id, why, time.Now()); err != nil {
			return err
		}
		if err := d.told(tx, a.ID); err != nil {
			return err
		}
		return d.auditor.Write(tx, a.Audit(), audit.Entry{Action: "session.end", ResourceType: collections.Sessions, Resource: s.Id, Metadata: map[string]any{"why": why}})
	})
	if err != nil {
		return err
	}
	return e.NoContent(http.StatusNoContent)
}

func noSession() *Error {
	return NotFound("session_not_found", "There is no such session, or it has ended.")
}

// endOthers ends all sessions of one's own but the one that asks.
func (d *Access) endOthers(e *core.RequestEvent) error {
	a, err := From(e)
	if err != nil {
		return err
	}
	n := 0
	err = collections.Tx(e.App, []collections.Lock{userLock(a.ID), audit.Lock("")}, func(tx core.App) error {
		live, err := liveSessions(tx, a.ID, time.Now())
		if err != nil {
			return err
		}
		n = 0
		for _, s := range live {
			if s.Id == a.Session {
				continue
			}
			if err := end(tx, s.Id, endedByUser, time.Now()); err != nil {
				return err
			}
			n++
		}
		if n == 0 {
			return nil
		}
		if err := d.told(tx, a.ID); err != nil {
			return err
		}
		return d.auditor.Write(tx, a.Audit(), audit.Entry{Action: "session.end_others", ResourceType: "users", Resource: a.ID, Metadata: map[string]any{"ended": n}})
	})
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"ended": n})
}

// Switch makes a tenant the one that the access tokens of the actor's session name, and returns such a token.
// The caller has asked whether he belongs to it. 409 for a token that has no session.
func (d *Access) Switch(e *core.RequestEvent, a Actor, tenant string) (token string, until time.Time, err error) {
	if a.Session == "" {
		return "", time.Time{}, Conflict("no_session", "This token belongs to no session. Name the organisation in the header X-Tenant instead.")
	}
	err = collections.Tx(e.App, []collections.Lock{collections.Lock("session:" + a.Session)}, func(tx core.App) error {
		s, err := sessionOf(tx, a.Session, a.ID)
		if err == nil && s == nil {
			err = ended()
		}
		if err != nil {
			return err
		}
		if done, err := write(tx, s.Id, dbx.Params{"current": tenant}, dbx.HashExp{}); err != nil || !done {
			return errors.Join(err, ended())
		}
		s.SetCurrent(tenant)
		token, until, err = accessToken(e.Auth, s, time.Now())
		return err
	})
	return token, until, err
}
