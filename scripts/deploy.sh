#!/bin/sh
# Deploys the cloud side, or removes it, after checking that it can work, and
# says what comes next.
set -eu

usage() {
	cat <<-'END'
		usage: deploy.sh [--destroy] CERTIFICATE_ARN[,CERTIFICATE_ARN...] [CDK ARGUMENT...]

		Checks with preflight.sh, runs cdk deploy (with --destroy: cdk destroy) and
		prints what to put into the device's configuration (what stays).

		  deploy.sh ARN -c serialRegistry=true -c alarmEmail=ops@example.com
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
arns=$1 # preflight.sh says what is wrong with it
shift

# The stack's name is among the CDK's arguments: -c name=NAME.
stack=GoFleetProvisioning
for argument; do
	case $argument in
	name=*) stack=${argument#name=} ;;
	esac
done

scripts=$(cd -- "$(dirname -- "$0")" && pwd)
if [ "$action" = destroy ]; then
	"$scripts/preflight.sh" --destroy --name "$stack" "$arns"
else
	"$scripts/preflight.sh" --name "$stack" "$arns"
fi
cd -- "$scripts/../infra"
node_modules/.bin/cdk "$action" -c "certificateArn=$arns" "$@" >&2

region=$(echo "$arns" | cut -d: -f4)
output() {
	aws cloudformation describe-stacks --stack-name "$stack" --region "$region" --output text \
		--query "Stacks[0].Outputs[?OutputKey=='$1'].OutputValue"
}

if [ "$action" = destroy ]; then
	device=${stack}DevicePolicy type=${stack}Type
	if [ "$stack" = GoFleetProvisioning ]; then
		device=GoIoTDevicePolicy type=fleety
	fi
	cat <<-END
		The stack $stack is gone. These stay, because devices hold them:
		  the things and certificates that devices have made, which keep working
		  the policy $device
		  the thing type $type
		  the table of serial numbers, if there was one
		  the claim certificate
		docs/cloud.md says how to remove each.
	END
	exit 0
fi
endpoint=$(aws iot describe-endpoint --endpoint-type iot:Data-ATS --region "$region" --query endpointAddress --output text)
table=$(output SerialTableName)
cat <<-END
	# The device's configuration, .simple-go-iot-device.yaml:
	server:
	  port: 8883
	  endpoint: $endpoint
	bootstrap:
	  provisioningTemplate: $(output ProvisioningTemplateName)
END
case $table in
'' | None) ;;
*)
	echo "# No device comes in before its serial number is loaded, in hook/:"
	echo "#   go run ./cmd/serials load --table $table FILE.csv"
	;;
esac
