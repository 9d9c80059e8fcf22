# The keys, users and settings of our own cluster, in its folder. Read by own/up.
# shellcheck shell=bash

make_keys() {
  {
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -days 365 -subj /CN=macula-e2e -out ca.crt
    sign apiserver /CN=kube-apiserver \
      "subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:$net.96.1,IP:$net.0.2,IP:127.0.0.1"
    sign kubelet-client /CN=kube-apiserver-kubelet-client extendedKeyUsage=clientAuth
    openssl genrsa -out service-accounts.key 2048
    openssl rsa -in service-accounts.key -pubout -out service-accounts.pub
  } 2>openssl.log || fail "openssl failed: $(cat openssl.log)"
}
sign() { # NAME SUBJECT EXTENSION
  openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
  openssl req -new -key "$1.key" -subj "$2" |
    openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out "$1.crt" -extfile <(echo "$3")
}

make_users() {
  user admin admin system:masters
  user controller-manager system:kube-controller-manager
  user scheduler system:kube-scheduler
  user proxy system:kube-proxy system:node-proxier
  user node-1 system:node:node-1 system:nodes
  user node-2 system:node:node-2 system:nodes
}
user() { # FILE NAME [GROUP]: a token, and the kubeconfig that carries it
  local token; token=$(openssl rand -hex 24)
  echo "$token,$2,$1${3:+,\"$3\"}" >>tokens.csv
  cat >"$state/$1.kubeconfig" <<T
apiVersion: v1
kind: Config
clusters: [{name: macula-e2e, cluster: {server: "https://$net.0.2:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {token: $token}}]
contexts: [{name: macula-e2e, context: {cluster: macula-e2e, user: $1}}]
current-context: macula-e2e
T
}

configure_node() { # I
  local n=$state/n$1 cni folder snapshotter=overlayfs
  for folder in /usr/lib/cni /opt/cni/bin /usr/libexec/cni; do
    if [ -x "$folder/ptp" ]; then cni=$folder; break; fi
  done
  # An overlay cannot lie on an overlay, which is what there is inside of a container.
  if [ "$(stat -f -c %T "$state")" = overlayfs ]; then snapshotter=native; fi
  cat >"$n/containerd.toml" <<T
version = 2
root = "$n/containerd"
state = "$n/containerd-state"
[grpc]
address = "$n/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "$n/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:e2e"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "$snapshotter"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "${cni:?no CNI plugins}"
conf_dir = "$n/cni"
T
  cat >"$n/cni/10-ptp.conflist" <<T
{"cniVersion": "0.4.0", "name": "macula-e2e", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "$n/ipam",
    "ranges": [[{"subnet": "$net.1$1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
T
  # Pods with dnsPolicy Default; there is no DNS beyond the cluster's.
  echo "nameserver 127.0.0.1" >"$n/resolv.conf"
  # The kubelet's authorisation: whoever holds a certificate of the cluster's CA, which is the API server alone.
  # syncFrequency: what is projected into pods (ConfigMaps, tokens) follows within a second.
  cat >"$n/kubelet.yaml" <<T
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $state/pki/ca.crt}}
authorization: {mode: AlwaysAllow}
clusterDomain: cluster.local
clusterDNS: [$net.96.10]
containerRuntimeEndpoint: unix://$n/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup/n$1
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
maxPods: 200
syncFrequency: 1s
nodeStatusUpdateFrequency: 4s
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: "100Mi"}
imageGCHighThresholdPercent: 100
volumePluginDir: $n/volume-plugins
resolvConf: $n/resolv.conf
T
}
