package identity

import (
	"crypto"
	"errors"
	"fmt"
	"testing"
)

// absentToken opens nothing, like a token that is not connected.
type absentToken struct{}

func (absentToken) New() (crypto.Signer, []byte, error) { return nil, nil, ErrUnavailable }
func (absentToken) Open([]byte) (crypto.Signer, error) {
	return nil, fmt.Errorf("opening the token: %w", ErrUnavailable)
}

// A key whose hardware is missing makes an identity unreadable, not damaged: nothing is to be
// replaced for it. A journal with such a key is not corrupt.
func TestIdentityWithoutItsHardwareIsNotDamaged(t *testing.T) {
	d, _, _ := pendingReplacement(t, Registered)
	s := storeOn(t, d)
	s.config.Keys = absentToken{}
	status := s.Status()
	if status.State != Unreadable || len(status.Problems) == 0 {
		t.Errorf("state %v, problems %v", status.State, status.Problems)
	}
	for _, problem := range status.Problems {
		if !errors.Is(problem, ErrUnavailable) {
			t.Errorf("problem: %v", problem)
		}
	}
	if j, err := s.Begin(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Begin: %v, %v", j, err)
	}
}
