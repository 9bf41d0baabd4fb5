#!/bin/sh
# Rehearses a deployment on this machine, with no AWS account: synthesizes the
# stack as a deployment does, but with the hook built for this machine, runs it on
# iot_core_local, with DynamoDB beside it, and does the main job against it.
set -eu
unset CDPATH

# One rehearsal a line. Together they have every option, each with another value
# than its default; infra/scripttest compares this table with the options.
rehearsals='
thingPrefix=acme- serialPrefix=ACME- serialRegistry=listed existingThings=allow minimalRole=true claimClientIds=claim-*,gg-* claimSourceIp=203.0.113.0/24 retireAfter=7
name=Second templates=stack/testdata/own thingType=acme-sensor thingGroup=acme deviceStatements=stack/testdata/statements.json serialRegistry=none rotation=false hookConcurrency=5 xray=true expectedAdmissions=7 alarmEmail=ops@example.com
'

usage() {
	cat <<-'END'
		usage: rehearse.sh [-c NAME=VALUE]...
		       rehearse.sh --every-option

		The options are those of cdk deploy; names and prefixes are read from what is
		synthesized. The claim certificate is that of CERTIFICATE_ARN, by default one
		that does not exist: a claim of iot_core_local stands in for it. --every-option
		rehearses once for each line of a table that has all options. make rehearse
		builds what is needed; IOT_DEVICE and IOT_CORE_LOCAL name other programs.
	END
}

die() {
	echo "rehearse.sh: error: $*" >&2
	exit 1
}

scripts=$(cd -- "$(dirname -- "$0")" && pwd)
here=$PWD
case "${1:-}" in
'' | -c | --context) ;;
--every-option)
	echo "$rehearsals" | while read -r options; do
		[ -n "$options" ] || continue
		# shellcheck disable=SC2086
		set -f -- $options
		for option; do set -- "$@" -c "$option" && shift; done
		"$scripts/rehearse.sh" "$@" </dev/null || exit 1
	done
	exit
	;;
-h | --help) usage && exit 0 ;;
*) usage >&2 && exit 2 ;;
esac

nowhere=arn:aws:iot:us-east-1:123456789012:cert/0000000000000000000000000000000000000000000000000000000000000000
certificate=${CERTIFICATE_ARN:-$nowhere}
# Nothing here asks AWS: neither its credentials nor a profile are needed. And all of
# it runs here, whatever processor the caller builds for.
unset AWS_PROFILE AWS_DEFAULT_PROFILE GOOS GOARCH
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_EC2_METADATA_DISABLED=true

case $(go env GOARCH) in
amd64) architecture=x86_64 ;;
arm64) architecture=arm64 ;;
*) die "AWS Lambda has no $(go env GOARCH), so that the hook cannot be rehearsed here" ;;
esac

work=$(mktemp -d)
trap 'exec 3>&-; rm -rf -- "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

printf '\n== The stack that cdk deploy sends to AWS%s, with its hook for %s\n' "${*:+, with $*}" "$architecture"
cd "$scripts/../infra"
[ -x node_modules/.bin/cdk ] || die "the CDK command line is not installed: run npm ci in infra/"
node_modules/.bin/cdk synth --quiet --no-notices --output "$work/cdk.out" \
	-c "certificateArn=$certificate" "$@" -c "hookArchitecture=$architecture" >"$work/cdk.log" 2>&1 || {
	cat "$work/cdk.log" >&2
	die "cdk synth failed: its messages are above"
}
! grep 'not an assignment' "$work/cdk.log" >&2 || die "the CDK left an option out: give each as -c NAME=VALUE"
template=$(echo "$work"/cdk.out/*.template.json)
basename -- "$template"

# resource TYPE EXPRESSION prints what JavaScript says of each resource r of the type, with its id.
resource() {
	node -e 'const {Resources} = JSON.parse(require("fs").readFileSync(process.argv[1]))
		for (const [id, r] of Object.entries(Resources)) if (r.Type === process.argv[2]) console.log(eval(process.argv[3]))' \
		"$template" "$1" "$2"
}
# variable NAME prints a variable of the hook, the function that knows the thing prefix.
variable() { resource AWS::Lambda::Function "(v => v.THING_PREFIX ? v.$1 ?? '' : [])(r.Properties.Environment.Variables)" | sed '/^\[\]$/d'; }

TEMPLATE=$(resource AWS::IoT::ProvisioningTemplate 'r.Properties.TemplateName')
THING_PREFIX=$(variable THING_PREFIX)
SERIAL=$(variable SERIAL_PREFIX)5
case $(variable ROTATION) in
allow) ROTATE=true ;;
*) ROTATE=false ;;
esac
LOCATION=$(variable DEVICE_LOCATIONS | sed -n 's/^\["\([^"]*\)".*/\1/p')
# What a device must send besides serialNumber and deviceLocation.
PARAMETERS=$(resource AWS::IoT::ProvisioningTemplate 'Object.entries(JSON.parse(r.Properties.TemplateBody).Parameters)
	.filter(([name, p]) => p.Default === undefined && !["serialNumber", "deviceLocation"].includes(name) && !name.startsWith("AWS::"))
	.map(([name]) => name + ": rehearsal").join(", ")')
export TEMPLATE THING_PREFIX SERIAL ROTATE LOCATION PARAMETERS

# change EXPRESSION [VALUE] has JavaScript change each resource r. These are the only
# changes to the stack: claims may connect from here, and its hook finds DynamoDB.
change() {
	node -e 'const fs = require("fs"), [file, expression, value] = process.argv.slice(1), t = JSON.parse(fs.readFileSync(file))
		for (const r of Object.values(t.Resources)) eval(expression)
		fs.writeFileSync(file, JSON.stringify(t))' "$template" "$@"
}
change 'if (r.Type === "AWS::IoT::Policy") for (const s of [r.Properties.PolicyDocument.Statement].flat()) {
	const from = s.Condition?.IpAddress
	if (from?.["aws:SourceIp"]) from["aws:SourceIp"] = [from["aws:SourceIp"], "127.0.0.1", "::1"].flat()
}'

# iot_core_local names an unnamed resource STACK-LOGICALID.
table=$(resource AWS::DynamoDB::Table "'$(basename -- "$template" .template.json)-' + id")
if [ -n "$table" ]; then
	[ -d node_modules/dynalite ] || die "DynamoDB for rehearsals is not installed: run npm ci in infra/"
	mkfifo "$work/open"
	node "$scripts/dynamodb.mjs" "$table" <"$work/open" >"$work/endpoint" & # ends when descriptor 3 is closed
	dynamodb=$!
	exec 3>"$work/open"
	until [ -s "$work/endpoint" ]; do
		kill -0 "$dynamodb" 2>/dev/null || die "DynamoDB did not start"
		sleep 0.1
	done
	endpoint=$(cat "$work/endpoint")
	change 'if (r.Type === "AWS::Lambda::Function") r.Properties.Environment.Variables.AWS_ENDPOINT_URL_DYNAMODB = value' "$endpoint"
	if [ "$(variable SERIAL_REGISTRY)" = listed ]; then
		echo "$SERIAL" | (cd ../hook && AWS_ENDPOINT_URL_DYNAMODB=$endpoint AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local \
			go run ./cmd/serials load --table "$table" --prefix "$(variable SERIAL_PREFIX)" -)
	fi
fi

cd "$here" # from where IOT_DEVICE and IOT_CORE_LOCAL may be given
"$scripts/demo.sh" --assembly "$work/cdk.out"
