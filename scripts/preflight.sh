#!/bin/sh
# Checks, before anything is changed in AWS, whether a deployment or a deletion can
# work, and reports how to fix each problem. It only reads.
set -eu
unset CDPATH
export AWS_CLI_AUTO_PROMPT=off # in a script nobody answers

usage() {
	cat <<-'END'
		usage: preflight.sh [--destroy] [--name NAME] [--group GROUP] [--type TYPE]
		                    [--prefix PREFIX] [--qualifier QUALIFIER]
		                    CERTIFICATE_ARN[,CERTIFICATE_ARN...]

		Checks the tools, the credentials, the Region, the claim certificates, the CDK's
		bootstrap stack and the names that the stack will take. Prints every problem
		with its remedy; exits 1 if there is one. Warns of a claim certificate with more
		permissions than provisioning needs.

		  --destroy    before a deletion: only what that needs
		  --name NAME  the stack's name, if it is deployed with -c name=NAME; in the
		               same way --group for thingGroup, --type for thingType,
		               --prefix for thingPrefix and --qualifier for
		               @aws-cdk/core:bootstrapQualifier
	END
}

destroy=false
stack=GoFleetProvisioning own_group='' own_type='' prefix='' qualifier=''
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--destroy) destroy=true ;;
	--name | --group | --type | --prefix | --qualifier)
		[ $# -ge 2 ] || { usage >&2 && exit 2; }
		case $1 in
		--name) stack=$2 ;;
		--group) own_group=$2 ;;
		--type) own_type=$2 ;;
		--prefix) prefix=$2 ;;
		--qualifier) qualifier=$2 ;;
		esac
		shift
		;;
	-*) usage >&2 && exit 2 ;;
	*) break ;;
	esac
	shift
done
[ $# -eq 1 ] || { usage >&2 && exit 2; }
arns=$1

infra=$(cd -- "$(dirname -- "$0")/../infra" && pwd)
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
trap 'exit 130' HUP INT TERM

problems=0
# say prints a message without what would act on a terminal: parts of it are given.
say() { echo "preflight.sh: $*" | LC_ALL=C tr -cd ' -~\n' >&2; } # BusyBox's tr has no [:print:]

problem() {
	say "error: $*"
	problems=$((problems + 1))
}

warning() { say "warning: $*"; }

finish() {
	[ "$problems" -eq 0 ] && exit 0
	echo "preflight.sh: nothing was changed in AWS" >&2
	exit 1
}

# ask COMMAND... sets $answer to the answer of the aws command line. On
# failure its message is in $work/message.
ask() { answer=$(aws "$@" --region "$region" --output text 2>"$work/message"); }

# absent is true if the last failure was that the resource does not exist.
absent() { grep -q -e 'ResourceNotFoundException' -e 'does not exist' -e 'ParameterNotFound' "$work/message"; }

# because prints why the last call failed, and what to do.
because() {
	case $(cat "$work/message") in
	*'locate credentials'* | *'NoCredentials'* | *'config profile'*)
		echo "there are no AWS credentials: run aws configure, or set AWS_PROFILE" ;;
	*'ExpiredToken'* | *'InvalidClientTokenId'* | *'UnrecognizedClient'* | *'Token has expired'*)
		echo "AWS does not accept the credentials: renew them (aws sso login, or aws configure)" ;;
	*'AccessDenied'* | *'not authorized'*)
		echo "the credentials do not allow it: $(tail -n 1 "$work/message")" ;;
	*'connect to the endpoint'* | *'onnection'* | *'timeout'*)
		echo "AWS cannot be reached: check the network, the proxy and whether $region is a Region with AWS IoT Core" ;;
	*) tail -n 1 "$work/message" ;;
	esac
}

check_tools() {
	if ! command -v node >/dev/null; then
		problem "Node.js is not installed: get version 22 or later from https://nodejs.org"
	elif major=$(node --version | sed 's/^v\([0-9]*\).*/\1/') && [ "$major" -lt 20 ]; then
		problem "Node.js is version $major: the CDK needs 20 or later, better 22: get it from https://nodejs.org"
	elif [ ! -x "$infra/node_modules/.bin/cdk" ]; then
		problem "the CDK command line is not installed: run npm ci in infra/"
	else
		version=$("$infra/node_modules/.bin/cdk" --version | sed 's/^\([0-9]*\.[0-9]*\).*/\1/')
		if [ "${version%.*}" -ne 2 ] || [ "${version#*.}" -lt 1148 ]; then
			problem "the CDK command line is version $version: run npm ci in infra/ to get 2.1148 or later"
		fi
	fi
	command -v go >/dev/null || problem "Go is not installed: get it from https://go.dev/dl/"
}

check_account() {
	if ! ask sts get-caller-identity --query Account; then
		problem "checking AWS credentials: $(because)"
		finish
	fi
	[ "$answer" = "$account" ] ||
		problem "the credentials are of account $answer, the claim certificate is in $account: set AWS_PROFILE to one of $account, or create a claim in $answer with scripts/create-keys-and-cert.sh"
	ask iot describe-endpoint --endpoint-type iot:Data-ATS --query endpointAddress ||
		problem "reading the endpoint of $region: $(because)"
}

# check_claim ARN checks that a claim is active, and warns of one that may do more
# than the claim policy allows.
check_claim() {
	if ask iot list-attached-policies --target "$1" --query 'policies[].policyName'; then
		for policy in $answer; do
			[ "$policy" = "$claim" ] || [ "$policy" = None ] ||
				warning "the claim certificate $1 also has the policy $policy, and so has every device that is not provisioned yet: detach what provisioning does not need"
		done
	fi
	if ask iot list-principal-things --principal "$1" --query 'things' && [ -n "$answer" ] && [ "$answer" != None ]; then
		warning "the claim certificate $1 is attached to a thing ($answer): the hook denies what it asks for, because it takes it for a device that rotates"
	fi
	if ask iot describe-certificate --certificate-id "${1##*/}" --query certificateDescription.status; then
		[ "$answer" = ACTIVE ] ||
			problem "the claim certificate $1 is $answer: run aws iot update-certificate --certificate-id ${1##*/} --new-status ACTIVE --region $region, or create another claim with scripts/create-keys-and-cert.sh"
	elif absent; then
		problem "the claim certificate $1 is not in this account and Region: create one with scripts/create-keys-and-cert.sh --force"
	else
		problem "reading the claim certificate $1: $(because)"
	fi
}

check_bootstrap() {
	if ask ssm get-parameter --name "/cdk-bootstrap/${qualifier:-hnb659fds}/version" --query Parameter.Value; then
		[ "$answer" -ge 6 ] ||
			problem "the CDK's bootstrap stack is of version $answer: run npx cdk bootstrap ${qualifier:+--qualifier $qualifier }aws://$account/$region in infra/"
	elif absent; then
		problem "the CDK has no bootstrap stack in $region of account $account: run npx cdk bootstrap ${qualifier:+--qualifier $qualifier }aws://$account/$region in infra/"
	else
		problem "reading the CDK's bootstrap stack: $(because)"
	fi
}

# check_stack sets $deployed to whether the stack exists.
check_stack() {
	deployed=false
	if ! ask cloudformation describe-stacks --stack-name "$stack" --query 'Stacks[0].[StackStatus,Description]'; then
		absent || problem "reading the stack $stack: $(because)"
		return 0
	fi
	case $answer in
	REVIEW_IN_PROGRESS*) # has no resources: a change set was not executed
		deployed=$destroy
		return 0
		;;
	esac
	deployed=true
	case $answer in
	*'Fleet provisioning by claim'*) ;;
	*) problem "there is a stack $stack that is not of this app: deploy with another name, -c name=NAME" ;;
	esac
	case $answer in
	*_IN_PROGRESS*) problem "the stack $stack is being changed: wait until aws cloudformation describe-stacks --stack-name $stack --region $region says that it is complete" ;;
	ROLLBACK_COMPLETE* | ROLLBACK_FAILED*) $destroy ||
		problem "the stack $stack could not be created the last time: delete what is left of it with make destroy, then deploy again" ;;
	esac
}

# check_prefix checks that no other stack's things can have the names of this one's,
# and warns of another prefix than that of the devices that the stack has.
check_prefix() {
	if $deployed && ask cloudformation describe-stacks --stack-name "$stack" --query "Stacks[0].Outputs[?OutputKey=='ThingNamePrefix'].OutputValue"; then
		case $answer in
		'' | None | "$prefix") ;;
		*) warning "devices whose things begin with $answer keep working, but can neither rotate nor be provisioned again once the prefix is $prefix" ;;
		esac
	fi
	ask cloudformation describe-stacks \
		--query "Stacks[?StackName!='$stack'].Outputs[] | [?OutputKey=='ThingNamePrefix'].OutputValue" || return 0
	for other in $answer; do
		case $prefix/$other in
		*/None) ;; # there is no other stack
		"$other"*/* | */"$prefix"*) problem "things of another stack here begin with $other, those of $stack would with $prefix: its claims could take them over; deploy with another prefix, -c thingPrefix=PREFIX" ;;
		esac
	done
}

# check_free KIND NAME REMOVAL QUESTION... checks that nothing has a name yet.
check_free() {
	kind=$1 name=$2 removal=$3
	shift 3
	if ask iot "$@" "$name" --query "'there'"; then
		problem "the $kind $name exists already, outside of any stack $stack: if no device needs it, $removal; else deploy with another name, -c name=NAME"
	elif ! absent; then
		problem "reading the $kind $name: $(because)"
	fi
}

# These are Names in infra/stack/options.go.
template=${stack}Template claim=${stack}ClaimPolicy device=${stack}DevicePolicy rotation=${stack}RotationPolicy extra=${stack}ExtraPolicy group=${stack}Group type=${stack}Type things=${stack}_
if [ "$stack" = GoFleetProvisioning ]; then
	claim=GoIoTFleetProvisioningPolicy device=GoIoTDevicePolicy rotation=GoIoTRotationPolicy extra=GoIoTExtraPolicy group=fleet-provisioning-group type=fleety things=fleety_
fi
group=${own_group:-$group} type=${own_type:-$type} prefix=${prefix:-$things}

check_names() {
	check_free "provisioning template" "$template" "run aws iot delete-provisioning-template --template-name $template --region $region" \
		describe-provisioning-template --template-name
	for policy in "$claim" "$device" "$rotation" "$extra"; do
		check_free policy "$policy" "run aws iot delete-policy --policy-name $policy --region $region, after delete-policy-version for each former version" get-policy --policy-name
	done
	check_free "thing group" "$group" "run aws iot delete-thing-group --thing-group-name $group --region $region" \
		describe-thing-group --thing-group-name
	check_free "thing type" "$type" "run aws iot deprecate-thing-type --thing-type-name $type --region $region and, five minutes later, aws iot delete-thing-type --thing-type-name $type --region $region" \
		describe-thing-type --thing-type-name
}

# The app checks the ARNs in full; here only what is asked about must be known.
first=${arns%%,*}
region=$(echo "$first" | cut -d: -f4)
account=$(echo "$first" | cut -d: -f5)
case $arns in
*[!A-Za-z0-9:/,\ -]*) first= ;; # no ARN of ours has other characters
esac
case $first in
arn:aws*:iot:[a-z]*:[0-9]???????????:cert/?*) ;;
*)
	problem "\"${arns%%,*}\" is not the ARN of a claim certificate, arn:aws:iot:REGION:ACCOUNT:cert/ID: scripts/create-keys-and-cert.sh creates one and prints its ARN"
	finish
	;;
esac

check_tools
if ! command -v aws >/dev/null; then
	problem "the aws command line is not installed: see https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html"
	finish
fi
check_account
check_stack
if $destroy; then
	$deployed || problem "there is no stack $stack in $region of account $account: nothing to delete, or the name is another (-c name=NAME)"
	finish
fi
echo "$arns" | tr ',' '\n' >"$work/arns"
while read -r arn; do check_claim "$arn"; done <"$work/arns"
check_bootstrap
check_prefix
$deployed || check_names
finish
