package access

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// limit is how often something may be tried. It holds across panel instances: hits are rows.
type limit struct {
	name    string        // begins the bucket's name
	max     int           // hits in any span of per; at most 100, the column takes no more
	per     time.Duration // sliding
	message string        // with one %s: how long to wait
}

// The limits of the doors by which one becomes somebody (SPEC §2). Sign-ins and code tries that succeed
// do not count; of sign-ups, those that make an account count as such, and all as attempts.
var (
	limitSignIn   = limit{"signin", 5, 15 * time.Minute, "Too many attempts to sign in from your network. Please try again in %s."}
	limitRegister = limit{"register", 3, time.Hour, "Too many accounts were made from your network. Please try again in %s."}
	limitSignUp   = limit{"signup", 20, time.Hour, "Too many attempts to make an account came from your network. Please try again in %s."}
	limitReset    = limit{"reset", 3, time.Hour, "We have sent several mails to this address already. Please look at your inbox, or try again in %s."}
	limitVerify   = limit{"verify", 3, time.Hour, limitReset.message}
	limitCodeMail = limit{"codemail", 3, time.Hour, limitReset.message}
	limitChange   = limit{"change", 3, time.Hour, "We have sent several mails about a new address already. Please try again in %s."}
	limitCode     = limit{"code", 5, 15 * time.Minute, "Too many wrong codes. Please ask for a new one, or try again in %s."}
)

// strict is what is counted at one of PocketBase's own doors.
type strict struct {
	limit   limit
	subject func(e *core.RequestEvent, in limited) string // whom it counts; empty: nobody, it passes
	regain  regain                                        // what gives its hit back
}

type regain uint8

const (
	byNothing regain = iota
	bySuccess
	byFailure
)

// limited is what the doors' bodies say about whom they concern.
type limited struct {
	Email    string `json:"email" form:"email"`
	NewEmail string `json:"newEmail" form:"newEmail"`
	OTP      string `json:"otpId" form:"otpId"`
}

func byAddress(e *core.RequestEvent, _ limited) string { return network(e.RealIP()) }
func byAccount(e *core.RequestEvent, _ limited) string {
	if e.Auth == nil {
		return ""
	}
	return e.Auth.Id
}
func byEmail(_ *core.RequestEvent, in limited) string { return sameMail(in.Email) }

// doors by the pattern that the router matched, so that no spelling of an address goes round them.
var doors = map[string][]strict{
	"POST /api/collections/{collection}/auth-with-password": {{limitSignIn, byAddress, bySuccess}},
	"POST /api/collections/{collection}/auth-with-oauth2":   {{limitSignIn, byAddress, bySuccess}},
	"POST /api/collections/{collection}/auth-with-otp": {
		{limitCode, func(_ *core.RequestEvent, in limited) string { return in.OTP }, bySuccess},
		{limitSignIn, byAddress, bySuccess},
	},
	"POST /api/collections/{collection}/request-otp":            {{limitCodeMail, byEmail, byNothing}},
	"POST /api/collections/{collection}/request-password-reset": {{limitReset, byEmail, byNothing}},
	"POST /api/collections/{collection}/request-verification":   {{limitVerify, byEmail, byNothing}},
	"POST /api/collections/{collection}/request-email-change": {
		{limitVerify, func(_ *core.RequestEvent, in limited) string { return sameMail(in.NewEmail) }, byNothing},
		{limitChange, byAccount, byNothing},
	},
	"POST /api/collections/{collection}/records": {{limitSignUp, registering, byNothing}, {limitRegister, registering, byFailure}},
}

// registering counts who makes an account for himself.
func registering(e *core.RequestEvent, _ limited) string {
	c, err := e.App.FindCachedCollectionByNameOrId(e.Request.PathValue("collection"))
	if err != nil || !c.IsAuth() || e.HasSuperuserAuth() {
		return ""
	}
	return network(e.RealIP())
}

func sameMail(s string) string { return strings.ToLower(strings.TrimSpace(s)) }

// network is whom an address counts for: itself, or its /64, which is one customer's in IPv6.
func network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return a.String()
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a.String()
	}
	return p.String()
}

// Limit is middleware for every route: the strict limits of PocketBase's doors, then the general one.
// Addresses that the operator excluded from PocketBase's rate limits pass.
func (d *Access) Limit(e *core.RequestEvent) error {
	if d.exempt(e) {
		return e.Next()
	}
	if err := d.general(e); err != nil {
		return d.refuse(e, err)
	}
	rules := doors[e.Request.Pattern]
	if len(rules) == 0 {
		return e.Next()
	}
	// What succeeds costs as much work as what does not.
	if wait := d.pace.take(d.bucket(limit{name: "d"}, network(e.RealIP())), time.Now()); wait > 0 {
		return d.refuse(e, TooMany("too_many_requests", tooOften, wait))
	}
	var in limited
	_ = e.BindBody(&in) // what cannot be read concerns nobody; PocketBase refuses it
	regained := map[regain][]func(){}
	for _, r := range rules {
		who := r.subject(e, in)
		if who == "" {
			continue
		}
		at, err := d.hit(e.App, r.limit, who)
		if err != nil {
			return d.refuse(e, err)
		}
		regained[r.regain] = append(regained[r.regain], func() { d.regain(e.App, r.limit, who, at) })
	}
	err := e.Next()
	came := byFailure
	if err == nil && (e.Status() < 400 || e.Get(checkpointKey) == true) { // a checkpoint: what was shown so far was right
		came = bySuccess
	}
	for _, fn := range regained[came] {
		fn()
	}
	return err
}

// ProviderSignIn is the handler of OnRecordAuthWithOAuth2Request: an account that is made by it counts as any other.
func (d *Access) ProviderSignIn(e *core.RecordAuthWithOAuth2RequestEvent) error {
	if !e.IsNewRecord || d.exempt(e.RequestEvent) {
		return e.Next()
	}
	who := network(e.RealIP())
	at, err := d.hit(e.App, limitRegister, who)
	if err != nil {
		return d.refuse(e.RequestEvent, err)
	}
	if err := e.Next(); err != nil {
		d.regain(e.App, limitRegister, who, at)
		return err
	}
	return nil
}

func (d *Access) exempt(e *core.RequestEvent) bool {
	ip, err := netip.ParseAddr(e.RealIP())
	if err != nil {
		return false
	}
	for _, text := range e.App.Settings().RateLimits.ExcludedIPs {
		if p, err := netip.ParsePrefix(text); err == nil && p.Contains(ip.Unmap()) {
			return true
		}
		if a, err := netip.ParseAddr(text); err == nil && a.Unmap() == ip.Unmap() {
			return true
		}
	}
	return false
}

// refuse answers in the shape of /api/v1, at PocketBase's own doors, too.
func (d *Access) refuse(e *core.RequestEvent, err error) error {
	var ours *Error
	if RequestID(e) != "" || !errors.As(err, &ours) {
		return err
	}
	return writeError(e, strings.ToLower(rand.Text()), ours)
}

// hit counts one attempt and returns when it was; 429 too_many_requests when there were enough.
func (d *Access) hit(app core.App, l limit, who string) (time.Time, error) {
	bucket, now := d.bucket(l, who), time.Now().Truncate(time.Millisecond)
	if row, err := bucketRow(app, bucket); err == nil { // who is refused costs no transaction
		if err := l.admit(recent(row, now.Add(-l.per)), now); err != nil {
			return now, err
		}
	}
	err := collections.Tx(app, []collections.Lock{collections.Lock("rate:" + bucket)}, func(tx core.App) error {
		row, err := bucketRow(tx, bucket)
		if errors.Is(err, sql.ErrNoRows) {
			if row, err = collections.NewRateLimit(tx); err == nil {
				row.SetBucket(bucket)
			}
		}
		if err != nil {
			return fmt.Errorf("count an attempt: %w", err)
		}
		hits := recent(row, now.Add(-l.per))
		if err := l.admit(hits, now); err != nil {
			return err
		}
		return l.save(tx, row, append(hits, now.UnixMilli()))
	})
	return now, err
}

// admit is 429 when there are as many hits as may be.
func (l limit) admit(hits []int64, now time.Time) error {
	if len(hits) < l.max {
		return nil
	}
	wait := time.UnixMilli(hits[len(hits)-l.max]).Add(l.per).Sub(now)
	return TooMany("too_many_requests", fmt.Sprintf(l.message, waitText(wait)), wait)
}

func (l limit) save(tx core.App, row *collections.RateLimit, hits []int64) error {
	row.SetHits(hits)
	row.SetExpiresAt(time.Now().Add(l.per))
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("count an attempt: %w", err)
	}
	return nil
}

// regain takes one hit back. An attempt that stays counted is no harm worth an error.
func (d *Access) regain(app core.App, l limit, who string, at time.Time) {
	bucket := d.bucket(l, who)
	err := collections.Tx(app, []collections.Lock{collections.Lock("rate:" + bucket)}, func(tx core.App) error {
		row, err := bucketRow(tx, bucket)
		if err != nil {
			return err
		}
		hits := recent(row, time.Time{})
		for i, h := range hits {
			if h == at.UnixMilli() {
				return l.save(tx, row, append(hits[:i:i], hits[i+1:]...))
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		d.log.Warn("an attempt that succeeded stays counted", "limit", l.name, "error", err)
	}
}

// bucket names what is counted without saying who it is: addresses are nobody's business in a table.
func (d *Access) bucket(l limit, who string) string {
	mac := hmac.New(sha256.New, d.key)
	mac.Write([]byte("rate limit\x00" + l.name + "\x00" + who))
	return l.name + "." + hex.EncodeToString(mac.Sum(nil)[:16])
}

func bucketRow(app core.App, bucket string) (*collections.RateLimit, error) {
	return collections.One[collections.RateLimit](app, collections.RateLimits, dbx.HashExp{"bucket": bucket})
}

// recent are the hits of a row after then, the oldest first.
func recent(row *collections.RateLimit, then time.Time) []int64 {
	var hits, out []int64
	_ = row.Hits(&hits) // a new row has none
	for _, h := range hits {
		if then.IsZero() || h > then.UnixMilli() {
			out = append(out, h)
		}
	}
	return out
}

// waitText is a time to wait as a person says it.
func waitText(d time.Duration) string {
	switch m := int((d + time.Minute - 1) / time.Minute); {
	case d <= time.Minute:
		return "a minute"
	case m < 60:
		return fmt.Sprintf("%d minutes", m)
	}
	return "an hour"
}

// Carried marks the context of a request that another instance has counted already.
func Carried(ctx context.Context) context.Context { return context.WithValue(ctx, carried{}, true) }

type carried struct{}
