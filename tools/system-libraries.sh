#!/bin/sh
# Install the system libraries that napari needs without a screen (tests, demo screenshots), or the packages that are
# named as arguments, or say which are missing.
set -eu
screenless="xvfb xauth libegl1 libgl1 libglx-mesa0 libgl1-mesa-dri libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4
libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-xinerama0 libxcb-shape0 libdbus-1-3"
packages="${*:-$screenless}"

if ! command -v dpkg-query >/dev/null 2>&1; then
    [ $# = 0 ] && command -v xvfb-run >/dev/null 2>&1 && exit 0
    echo "This is not a Debian system: install by hand what Debian calls $packages" >&2
    exit 1
fi
missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ]; then
    echo "System libraries are missing; run: sudo apt-get install$missing" >&2
    exit 1
fi
echo "Installing system libraries:$missing"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
