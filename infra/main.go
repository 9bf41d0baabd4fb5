// Command infra is the CDK app that deploys the cloud side of fleet provisioning. The CDK command
// line runs it:
//
//	cdk deploy -c certificateArn=arn:aws:iot:REGION:ACCOUNT:cert/ID
//
// It builds the hook itself, so that what is deployed is what the sources say.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"

	"example.com/fleety/infra/stack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "infra: error:", err)
		os.Exit(1)
	}
}

// run finds what is wrong before the CDK starts to write.
func run(ctx context.Context) error {
	defer jsii.Close() // the CDK's packages leave a temporary folder as soon as they are loaded
	props := &stack.Props{}
	given, err := cdkContext()
	if err != nil {
		return err
	}
	if props.Options, err = stack.ParseOptions(given); err != nil {
		return err
	}
	if props.Documents, err = stack.ReadDocuments(filepath.Join("..", "templates"), props.Options); err != nil {
		return err
	}
	if err := props.Check(); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "fleety-hook-")
	if err != nil {
		return fmt.Errorf("making a folder for the functions: %w", err)
	}
	defer os.RemoveAll(work)
	props.HookFolder, props.RetireFolder = filepath.Join(work, "hook"), filepath.Join(work, "retire")
	if err := buildFunction(ctx, props.HookFolder, props.HookArchitecture, "."); err != nil {
		return err
	}
	if props.Rotation {
		if err := buildFunction(ctx, props.RetireFolder, props.HookArchitecture, "./cmd/retire"); err != nil {
			return err
		}
	}
	return synth(props)
}

// cdkContext is what -c options, cdk.json and cdk.context.json say. The CDK command line hands it
// over in the environment and, where that is large, the last of it in a file.
func cdkContext() (context map[string]any, err error) {
	text := os.Getenv("CDK_CONTEXT_JSON")
	if file := os.Getenv("CONTEXT_OVERFLOW_LOCATION_ENV"); file != "" {
		rest, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading the CDK context: %w", err)
		}
		text += string(rest)
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber() // a serial prefix keeps its digits
	for decoder.More() {
		if err := decoder.Decode(&context); err != nil {
			return nil, fmt.Errorf("reading the CDK context: %w", err)
		}
	}
	if context == nil {
		return nil, errors.New("run by hand: this app is run by the CDK command line, as in: npx cdk synth -c certificateArn=ARN")
	}
	return context, nil
}

// buildFunction builds a package of the hook's module into a folder.
func buildFunction(ctx context.Context, folder string, architecture, name string) error {
	script := filepath.Join("..", "scripts", "build-hook.sh")
	output, err := exec.CommandContext(ctx, script, filepath.Join(folder, "bootstrap"), architecture, name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("building %s of the hook with %s: %w\n%s", name, script, err, output)
	}
	return nil
}

// synth writes the assembly where the CDK command line expects it. The CDK reports its errors by
// panicking.
func synth(props *stack.Props) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("synthesizing: %v", reason)
		}
	}()
	app := awscdk.NewApp(nil)
	stack.New(app, props)
	app.Synth(nil)
	return nil
}
