# One image, both binaries: /macula-node and /macula-operator. Static, no shell, not root.
#
# With a registry at hand, from source, for any architecture that Rust's image has:
#   docker build -t macula .
# Without one, from binaries that were built before into the context's folder bin/ (`make image` does it):
#   buildah bud --build-arg BINARIES=prebuilt -t macula .
ARG BINARIES=build

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The explicit target keeps procedural macros dynamic; -crt-static leaves the binaries without a loader.
RUN target=$(rustc -vV | sed -n 's/^host: //p') && \
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$target" -p macula-node -p macula-operator && \
    mkdir /bin-out && cp target/"$target"/release/macula-node target/"$target"/release/macula-operator /bin-out/
FROM scratch AS build-out
COPY --from=build /bin-out/ /

FROM scratch AS prebuilt-out
COPY bin/ /

FROM ${BINARIES}-out AS binaries

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Macula" \
      org.opencontainers.image.description="A brokerless mesh for calls and publish/subscribe: node and Kubernetes operator" \
      org.opencontainers.image.source="https://github.com/macula-io/macula-kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=binaries / /
USER 65532:65532
