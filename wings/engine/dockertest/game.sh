#!/bin/sh
# The game of the test image. Each word is one behaviour; engine/fake's TestGame is its twin in Go,
# so that one suite can run against both.
case "$1" in
lines) # lines N: print "line 1" to "line N" and end
	i=1
	while [ "$i" -le "$2" ]; do
		echo "line $i"
		i=$((i + 1))
	done
	;;
both) # both N: print N lines alternately to stdout and stderr
	i=1
	while [ "$i" -le "$2" ]; do
		echo "out $i"
		echo "err $i" >&2
		i=$((i + 1))
	done
	;;
long) # long N: one line of N bytes, then "after"
	head -c "$2" /dev/zero | tr '\0' x
	echo
	echo after
	;;
exit) # exit N: end with code N
	exit "$2"
	;;
echo) # answer each line of stdin, end at "stop", print "env" for "env"
	echo ready
	while read -r line; do
		case "$line" in
		stop) echo bye && exit 0 ;;
		env) echo "GREETING=$GREETING" ;;
		id) echo "$(id -u):$(id -g)" ;;
		*) echo "got $line" ;;
		esac
	done
	;;
polite) # end with 0 at SIGTERM
	trap 'echo bye; exit 0' TERM
	echo ready
	while :; do
		sleep 60 &
		wait $!
	done
	;;
stubborn) # ignore SIGTERM
	trap '' TERM
	echo ready
	while :; do sleep 1; done
	;;
burn) # use one core, as much of it as there is
	echo ready
	while :; do :; done
	;;
hog) # use more memory than any test allows
	echo ready
	dd if=/dev/zero of=/dev/null bs=1024M count=1
	;;
shell) # shell SCRIPT: for what only a real container can show
	exec sh -c "$2"
	;;
*)
	echo "what is $1?" >&2
	exit 64
	;;
esac
