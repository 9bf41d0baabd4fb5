package corecli

import "example.com/fleety/device/internal/cli"

func explain(err error) cli.Explanation {
	return cli.Explanation{Code: cli.ExitFailed}
}
