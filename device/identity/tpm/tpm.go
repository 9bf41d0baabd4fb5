// Package tpm keeps private keys in a TPM 2.0. A key is made in the TPM and cannot leave it; its
// file is a "TSS2 PRIVATE KEY" in PEM form, which only that TPM can load and which OpenSSL's tpm2
// provider reads too.
//
// Keys are ECDSA P-256, children of the storage root key of the owner hierarchy, without a password
// of their own: who may open the device may sign, so the device's permissions protect the key on a
// running system, and a policy on platform configuration registers protects it on a changed one.
//
// Format: https://www.hansenpartnership.com/draft-bottomley-tpm2-keys.html
package tpm

import (
	"cmp"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	keyfile "github.com/foxboron/go-tpm-keyfiles"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"example.com/fleety/device/awsiot"
)

// DefaultDevice is the kernel's resource manager, which several programs can use at once.
const DefaultDevice = "/dev/tpmrm0"

// FileType is the type of the PEM block in a key's file.
const FileType = "TSS2 PRIVATE KEY"

// busyFor is how long a busy TPM is asked again.
const busyFor = 10 * time.Second

// Conditions that an error of this package wraps.
var (
	ErrNoTPM    = errors.New("no TPM 2.0 can be opened")
	ErrOtherTPM = errors.New("the key belongs to another TPM, or this TPM was cleared after the key was made")
	ErrPolicy   = errors.New("the platform configuration registers differ from those that the key is bound to: firmware, boot loader or kernel have changed")
	ErrLockout  = errors.New("the TPM is locked after too many failed authorizations")
	ErrBusy     = errors.New("the TPM is in use by another program")
	ErrOwner    = errors.New("the TPM's owner hierarchy requires an authorization")
)

// Keys is an identity.KeyStore of one TPM. The zero value is ready for use. It is safe for
// concurrent use.
type Keys struct {
	Device string // path of the TPM's character device, or of a Unix socket that speaks to one; default [DefaultDevice]
	// PCRs are the registers of the SHA-256 bank that new keys are bound to, 0 to 23: such a key
	// signs only while they have the values that they had when it was made. Default none. Keys that
	// exist keep what they were made with.
	PCRs []uint

	mu sync.Mutex // a TPM without resource manager has few slots
}

// New makes a P-256 key in the TPM and returns it with the text of its file. It returns an error
// that wraps [ErrNoTPM], [ErrLockout] or [ErrBusy] for these conditions.
func (k *Keys) New() (crypto.Signer, []byte, error) {
	if slices.ContainsFunc(k.PCRs, func(n uint) bool { return n > 23 }) {
		return nil, nil, fmt.Errorf("making a key in the TPM: platform configuration registers %v: they have the numbers 0 to 23", k.PCRs)
	}
	s := &signer{keys: k}
	err := k.do("making a key in the TPM", func(t transport.TPM) (err error) {
		if s.key, err = create(t, k.PCRs); err == nil {
			s.public, err = s.key.PublicKey()
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return s, s.key.Bytes(), nil
}

// Open reads a key's file. It does not ask the TPM: whether the key is of this one shows when it
// signs.
func (k *Keys) Open(text []byte) (crypto.Signer, error) {
	key, err := keyfile.Decode(text)
	var public crypto.PublicKey
	if err == nil {
		public, err = key.PublicKey()
	}
	if err != nil {
		return nil, fmt.Errorf("reading the file of a key in a TPM: %w", err)
	}
	return &signer{k, key, public}, nil
}

type signer struct {
	keys   *Keys
	key    *keyfile.TPMKey
	public crypto.PublicKey
}

func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign signs a SHA-256, SHA-384 or SHA-512 digest in the TPM. It returns an error that wraps one of
// this package's for its conditions.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	hash, ok := map[crypto.Hash]tpm2.TPMAlgID{
		crypto.SHA256: tpm2.TPMAlgSHA256, crypto.SHA384: tpm2.TPMAlgSHA384, crypto.SHA512: tpm2.TPMAlgSHA512,
	}[opts.HashFunc()]
	if !ok {
		return nil, fmt.Errorf("signing in the TPM: %v digests are not supported", opts.HashFunc())
	}
	err = s.keys.do("signing in the TPM", func(t transport.TPM) error {
		signature, err = sign(t, s.key, digest, hash)
		return err
	})
	return signature, err
}

// do opens the TPM, waits for it while it is busy, and runs one operation. A TPM that stays busy or
// is locked is a temporary error.
func (k *Keys) do(op string, f func(transport.TPM) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	deadline := time.Now().Add(busyFor)
	err := explain(k.once(f))
	for errors.Is(err, ErrBusy) && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond)
		err = explain(k.once(f))
	}
	if err == nil {
		return nil
	}
	class := awsiot.Failed
	if errors.Is(err, ErrLockout) || errors.Is(err, ErrBusy) {
		class = awsiot.Temporary
	}
	return awsiot.WithClass(class, fmt.Errorf("%s: %w", op, err))
}

func (k *Keys) once(f func(transport.TPM) error) error {
	path := cmp.Or(k.Device, DefaultDevice)
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoTPM, err)
	}
	t, err := open(path, info.Mode().Type() == fs.ModeSocket)
	switch {
	case errors.Is(err, syscall.EBUSY):
		return err // and no reason to look for a TPM
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNoTPM, err)
	}
	defer t.Close()
	return f(t)
}

// explain adds the condition that a TPM's response code, or the kernel's, stands for.
func explain(err error) error {
	for _, c := range []struct{ code, condition error }{
		{syscall.EBUSY, ErrBusy}, {syscall.EAGAIN, ErrBusy}, // of a device, and of a socket at which others wait
		{syscall.ECONNREFUSED, ErrNoTPM}, {syscall.ENOENT, ErrNoTPM},
		{tpm2.TPMRCRetry, ErrBusy}, {tpm2.TPMRCYielded, ErrBusy}, {tpm2.TPMRCTesting, ErrBusy},
		{tpm2.TPMRCObjectMemory, ErrBusy}, {tpm2.TPMRCSessionMemory, ErrBusy},
		{tpm2.TPMRCLockout, ErrLockout},
		{tpm2.TPMRCBadAuth, ErrOwner}, {tpm2.TPMRCAuthFail, ErrOwner},
		{tpm2.TPMRCIntegrity, ErrOtherTPM},
		{tpm2.TPMRCPolicyFail, ErrPolicy}, {tpm2.TPMRCPCRChanged, ErrPolicy},
	} {
		if errors.Is(err, c.code) && !errors.Is(err, c.condition) {
			return fmt.Errorf("%w: %w", c.condition, err)
		}
	}
	return err
}

// storageRoot loads the storage root key that the format prescribes for keys of the owner
// hierarchy.
func storageRoot(t transport.TPM) (*tpm2.CreatePrimaryResponse, error) {
	root, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(keyfile.ECCSRK_H2_Template)}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("loading the storage root key: %w", err)
	}
	return root, nil
}

func create(t transport.TPM, pcrs []uint) (*keyfile.TPMKey, error) {
	root, err := storageRoot(t)
	if err != nil {
		return nil, err
	}
	defer keyfile.FlushHandle(t, root.ObjectHandle)
	template := tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, NoDA: true, SignEncrypt: true,
			UserWithAuth: len(pcrs) == 0,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull},
			KDF:     tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
		}),
	}
	var options []keyfile.TPMKeyOption // no description: OpenSSL's provider of Debian 12 does not read one
	if len(pcrs) > 0 {
		selection := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
			{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)},
		}}
		digest, err := policyDigest(t, selection)
		if err != nil {
			return nil, err
		}
		template.AuthPolicy = digest
		options = append(options, func(key *keyfile.TPMKey) {
			key.Policy = []*keyfile.TPMPolicy{{
				CommandCode: int(tpm2.TPMCCPolicyPCR),
				// The command's parameters: no digest, so that the registers decide, and the
				// selection.
				CommandPolicy: append(tpm2.Marshal(tpm2.TPM2BDigest{}), tpm2.Marshal(selection)...),
			}}
		})
	}
	made, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: root.ObjectHandle, Name: root.Name, Auth: tpm2.PasswordAuth(nil)},
		InPublic:     tpm2.New2B(template),
	}.Execute(t)
	if err != nil {
		return nil, err
	}
	key := keyfile.NewTPMKey(keyfile.OIDLoadableKey, made.OutPublic, made.OutPrivate, options...)
	key.EmptyAuth, key.Parent = true, tpm2.TPMRHOwner
	return key, nil
}

func sign(t transport.TPM, key *keyfile.TPMKey, digest []byte, hash tpm2.TPMAlgID) ([]byte, error) {
	auth := tpm2.PasswordAuth(nil)
	if len(key.Policy) > 0 {
		selection, err := policySelection(key)
		if err != nil {
			return nil, err
		}
		auth = tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(t transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
			_, err := tpm2.PolicyPCR{PolicySession: session, Pcrs: *selection}.Execute(t)
			return err
		})
	}
	root, err := storageRoot(t)
	if err != nil {
		return nil, err
	}
	loaded, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: root.ObjectHandle, Name: root.Name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    key.Privkey,
		InPublic:     key.Pubkey,
	}.Execute(t)
	keyfile.FlushHandle(t, root.ObjectHandle) // a TPM may have room for few objects
	if err != nil {
		return nil, err
	}
	defer keyfile.FlushHandle(t, loaded.ObjectHandle)
	signed, err := tpm2.Sign{
		KeyHandle:  tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: auth},
		Digest:     tpm2.TPM2BDigest{Buffer: digest},
		InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: hash})},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
	}.Execute(t)
	if err != nil {
		return nil, err
	}
	return keyfile.EncodeSignatureASN1(&signed.Signature)
}

// policyDigest returns the policy that the registers have their present values.
func policyDigest(t transport.TPM, selection tpm2.TPMLPCRSelection) (digest tpm2.TPM2BDigest, err error) {
	session, done, err := tpm2.PolicySession(t, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
	if err != nil {
		return digest, err
	}
	defer func() { err = errors.Join(err, done()) }()
	if _, err := (tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: selection}).Execute(t); err != nil {
		return digest, err
	}
	got, err := tpm2.PolicyGetDigest{PolicySession: session.Handle()}.Execute(t)
	if err != nil {
		return digest, err
	}
	return got.PolicyDigest, nil
}

// policySelection returns the registers that a key is bound to.
func policySelection(key *keyfile.TPMKey) (*tpm2.TPMLPCRSelection, error) {
	p := key.Policy[0]
	if len(key.Policy) != 1 || p.CommandCode != int(tpm2.TPMCCPolicyPCR) || len(p.CommandPolicy) < 2 {
		return nil, errors.New("the key has a policy other than one on platform configuration registers, which is not supported")
	}
	digest := int(binary.BigEndian.Uint16(p.CommandPolicy))
	if len(p.CommandPolicy) < 2+digest {
		return nil, errors.New("the key's policy is damaged")
	}
	selection, err := tpm2.Unmarshal[tpm2.TPMLPCRSelection](p.CommandPolicy[2+digest:])
	if err != nil {
		return nil, fmt.Errorf("the key's policy is damaged: %w", err)
	}
	return selection, nil
}
