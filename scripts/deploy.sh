#!/bin/sh
# Deploys the cloud side, or deletes it, after preflight checks, and prints the
# next steps.
set -eu
unset CDPATH GOOS GOARCH # the app runs here, whatever processor the caller builds for
export AWS_CLI_AUTO_PROMPT=off # in a script nobody answers

usage() {
	cat <<-'END'
		usage: deploy.sh [--destroy] CERTIFICATE_ARN[,CERTIFICATE_ARN...]
		                 [CDK ARGUMENT...]

		Checks with preflight.sh, runs cdk deploy (with --destroy: cdk destroy) and
		prints the device's configuration (the retained resources).

		  deploy.sh ARN -c serialRegistry=listed -c alarmEmail=ops@example.com
		  deploy.sh --destroy ARN --force
	END
}

action=deploy
case "${1:-}" in
-h | --help) usage && exit 0 ;;
--destroy) action=destroy && shift ;;
esac
case "${1--}" in
-*) usage >&2 && exit 2 ;;
esac
arns=$1 # preflight.sh checks it
shift

scripts=$(cd -- "$(dirname -- "$0")" && pwd)
# option NAME prints an option of the files that the CDK reads, the first of which wins.
# NAME is a pattern.
option() {
	sed -n -e 's/.*"'"$1"'" *: *"\([^"]*\)".*/\1/p' -e 's/.*"'"$1"'" *: *\([0-9][0-9]*\).*/\1/p' "$scripts/../infra/cdk.json" "$scripts/../infra/cdk.context.json" "${HOME:-}/.cdk.json" 2>/dev/null | sed -n 1p
}
profile=$(option profile)
[ -z "$profile" ] || export AWS_PROFILE="$profile"
stack=$(option name) group=$(option thingGroup) type=$(option thingType) prefix=$(option thingPrefix) registry=$(option serialRegistry) serials=$(option serialPrefix)
qualifier=$(option '@aws-cdk.core:bootstrapQualifier')
# Those among the CDK's arguments, as -c name=NAME, win.
before=
for argument; do
	option=
	case $before in
	--profile) export AWS_PROFILE="$argument" ;;
	-c | --c | --context | -[!-]*c) option=$argument ;;
	*)
		case $argument in
		--profile=*) export AWS_PROFILE="${argument#--profile=}" ;;
		-c=* | --c=* | --context=*) option=${argument#*=} ;;
		esac
		;;
	esac
	before=$argument
	case $option in
	@aws-cdk/core:bootstrapQualifier=*) qualifier=${option#*=} ;;
	name=*) stack=${option#name=} ;;
	thingGroup=*) group=${option#thingGroup=} ;;
	thingType=*) type=${option#thingType=} ;;
	thingPrefix=*) prefix=${option#thingPrefix=} ;;
	serialRegistry=*) registry=${option#serialRegistry=} ;;
	serialPrefix=*) serials=${option#serialPrefix=} ;;
	'' | *=*) ;;
	*)
		echo "deploy.sh: error: the option $option has no value, and the CDK would leave it out: write -c $option=VALUE" >&2
		exit 2
		;;
	esac
done
stack=${stack:-GoFleetProvisioning}

if [ "$action" = destroy ]; then
	"$scripts/preflight.sh" --destroy --name "$stack" "$arns"
else
	"$scripts/preflight.sh" --name "$stack" --group "$group" --type "$type" --prefix "$prefix" --qualifier "$qualifier" "$arns"
fi
cd -- "$scripts/../infra"
node_modules/.bin/cdk "$action" -c "certificateArn=$arns" "$@" >&2

region=$(echo "$arns" | cut -d: -f4)
output() {
	aws cloudformation describe-stacks --stack-name "$stack" --region "$region" --output text \
		--query "Stacks[0].Outputs[?OutputKey=='$1'].OutputValue"
}

if [ "$action" = destroy ]; then
	# The CDK succeeds, too, where its question was answered with no.
	if aws cloudformation describe-stacks --stack-name "$stack" --region "$region" >/dev/null 2>&1; then
		echo "deploy.sh: error: the stack $stack is still there, and nothing was deleted: confirm the question, or add --force" >&2
		exit 1
	fi
	policies=$stack kind=${stack}Type
	if [ "$stack" = GoFleetProvisioning ]; then
		policies=GoIoT kind=fleety
	fi
	cat <<-END
		Stack $stack deleted. Retained because devices use them:
		  the things and certificates of devices, which keep working
		  the policies ${policies}DevicePolicy, ${policies}RotationPolicy and, with
		  deviceStatements, ${policies}ExtraPolicy
		  the thing type ${type:-$kind}
		Retained besides:
		  the table of serial numbers and the log of the hook
		  the claim certificate
		To delete them, see docs/cloud.md.
	END
	exit 0
fi
template=$(output ProvisioningTemplateName) # outside of the text below, whose failures end nothing
case $template in
'' | None)
	echo "deploy.sh: the stack $stack has no outputs yet: execute its change set, then run this again for the device's configuration" >&2
	exit 0
	;;
esac
endpoint=$(aws iot describe-endpoint --endpoint-type iot:Data-ATS --region "$region" --query endpointAddress --output text)
cat <<-END
	# The device's configuration, .simple-go-iot-device.yaml:
	server:
	  port: 8883
	  endpoint: $endpoint
	bootstrap:
	  provisioningTemplate: $template
END
if [ "$registry" = listed ]; then
	table=$(output SerialTableName)
	echo "# Load serial numbers before you provision devices, in hook/:"
	echo "#   AWS_REGION=$region go run ./cmd/serials load --table $table${serials:+ --prefix $serials} FILE.csv"
fi
