package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Hash identifies everything of a ContainerSpec that the engine fixes at creation. Two specs with
// one hash can share a container; a container with another hash must be made again.
func (s ContainerSpec) Hash() string {
	raw, err := json.Marshal(s) // maps are encoded in key order
	if err != nil {
		panic("engine: ContainerSpec is not encodable: " + err.Error()) // plain data; cannot happen
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16])
}
