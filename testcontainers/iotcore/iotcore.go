// Package iotcore starts iot_core_local, the emulator of AWS IoT Core, in a container for a test,
// as a module of Testcontainers for Go. It knows the image alone and imports nothing of the
// emulator; a Go program that does not want a container runs localcore.Start instead.
package iotcore

import (
	"context"
	"fmt"
	"io"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

const (
	mqttPort = "8883/tcp"
	apiPort  = "8480/tcp"
	claim    = "/credentials/fleet-provisioning"
)

// A Container is a running emulator. Its methods are safe for concurrent use.
type Container struct {
	*testcontainers.DockerContainer
}

// Run starts image, which make images builds as iot_core_local, and returns when devices can
// connect; ctx bounds the wait, of a minute at most. Options are those of Testcontainers and
// WithArguments. Where Run fails after the container was created it returns both, so
// testcontainers.CleanupContainer(t, c) comes before the look at the error.
func Run(ctx context.Context, image string, options ...testcontainers.ContainerCustomizer) (*Container, error) {
	all := append([]testcontainers.ContainerCustomizer{
		testcontainers.WithExposedPorts(mqttPort, apiPort),
		testcontainers.WithCmd("serve", "--listen", "0.0.0.0:8883", "--api", "0.0.0.0:8480", "--unsafe-allow-any-address",
			"--hook", "/usr/lib/iot_core_local/hook", "--credentials", "/credentials"),
		testcontainers.WithWaitStrategy(wait.ForHTTP("/_local/health").WithPort(apiPort)),
	}, options...)
	c, err := testcontainers.Run(ctx, image, all...)
	if err != nil {
		err = fmt.Errorf("starting iot_core_local: %w", err)
	}
	if c == nil {
		return nil, err
	}
	return &Container{c}, err
}

// WithArguments adds arguments of iot_core_local serve, such as "--templates", "none", to those
// with which Run starts it. The last of an argument that is given twice counts.
func WithArguments(arguments ...string) testcontainers.ContainerCustomizer {
	return testcontainers.WithCmdArgs(arguments...)
}

// APIURL returns the address of the REST API, which aws --endpoint-url and
// AWS_ENDPOINT_URL take. The emulator verifies no signature: any credentials do.
func (c *Container) APIURL(ctx context.Context) (string, error) {
	return c.PortEndpoint(ctx, apiPort, "http")
}

// MQTTEndpoint returns the host and port that devices connect to. The emulator's
// certificate is for the name localhost: where the container engine is another
// machine, state it as the server name of the TLS handshake.
func (c *Container) MQTTEndpoint(ctx context.Context) (host, port string, err error) {
	if host, err = c.Host(ctx); err != nil {
		return "", "", err
	}
	mapped, err := c.MappedPort(ctx, mqttPort)
	return host, mapped.Port(), err
}

// Claim returns the claim certificate and its private key, as PEM. The key works
// with this container alone.
func (c *Container) Claim(ctx context.Context) (certificate, key []byte, err error) {
	if certificate, err = c.read(ctx, claim+".certificate.pem"); err != nil {
		return nil, nil, err
	}
	key, err = c.read(ctx, claim+".private.key")
	return certificate, key, err
}

// RootCA returns the certificate that the server's chain ends in, as PEM.
func (c *Container) RootCA(ctx context.Context) ([]byte, error) {
	return c.read(ctx, "/credentials/root.ca.bundle.pem")
}

func (c *Container) read(ctx context.Context, path string) ([]byte, error) {
	file, err := c.CopyFileFromContainer(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("reading %s of the container: %w", path, err)
	}
	defer file.Close()
	return io.ReadAll(file)
}
