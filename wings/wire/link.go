package wire

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The node link: GET /v1/nodes/{id}/link?kind=… with "Upgrade: mamba-link" turns the connection into
// a yamux session of which the panel is the client. On a control connection the node opens the first
// stream for Hello and HelloReply (one JSON value each way); all others are HTTP/1.1 from the panel.
const (
	LinkProtocol = "mamba-link"
	LinkControl  = "control" // one per node and panel instance: desired state, commands, consoles
	LinkBulk     = "bulk"    // opened when the panel asks (POST BulkPath): files, archives
	BulkPath     = APIPrefix + "/link/bulk"
)

// Bounds of a link, the same on both sides (measured: docs/adr/0009-node-link.md).
const (
	LinkWindowBytes        = 4 << 20          // flow control of one stream
	LinkBacklog            = 1024             // streams of a session that may wait to be accepted
	LinkStreamCloseTimeout = 3 * time.Second  // a half closed stream is cut after it
	LinkPingInterval       = 20 * time.Second // in place of yamux' own keepalive
	LinkDeadAfter          = 60 * time.Second // without an answer to a ping the session is closed
	LinkHelloTimeout       = 15 * time.Second
	MaxHelloBytes          = 64 << 10
	MaxBulkConnections     = 4  // per node and panel instance
	MaxInstances           = 16 // addresses of the panel that a node keeps; further ones are not used
)

// PanelServerName is a DNS SAN of the node listener's certificate. Nodes verify this name and not
// the address that they dial: the root belongs to one installation only, and an address may change.
const PanelServerName = "panel.mamba.internal"

// CertificateBackdate is how far back the not-before of every certificate of ours lies, so that
// clocks wrong by up to two days lock no node out.
const CertificateBackdate = 48 * time.Hour

// JoinToken is what the join command carries: the one-time token and the pinned root.
type JoinToken struct {
	Token       string // 32 random bytes, base64url
	Fingerprint string // SHA-256 of the root certificate's DER, hex
}

// ErrJoinToken is a join token that was not copied whole.
var ErrJoinToken = errors.New("this is not a join token; copy the whole command from the panel")

// String is the form for the command line: <token>.<fingerprint>.
func (t JoinToken) String() string { return t.Token + "." + t.Fingerprint }

// ParseJoinToken is the inverse of String. It returns ErrJoinToken for anything else.
func ParseJoinToken(s string) (JoinToken, error) {
	token, fingerprint, ok := strings.Cut(strings.TrimSpace(s), ".")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if !ok || err != nil || len(raw) != 32 {
		return JoinToken{}, ErrJoinToken
	}
	if sum, err := hex.DecodeString(fingerprint); err != nil || len(sum) != sha256.Size || strings.ToLower(fingerprint) != fingerprint {
		return JoinToken{}, ErrJoinToken
	}
	return JoinToken{Token: token, Fingerprint: fingerprint}, nil
}

// Fingerprint of a certificate: SHA-256 of its DER, lower-case hex.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Error makes an Error usable as one. It is for logs; the code is for machines.
func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message) }
