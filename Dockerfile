# The service of a bundle, without torch: docker build -t collab-ext . && docker run -p 8000:8000 -v "$PWD/bundles:/bundles:ro" collab-ext
FROM python:3.11-slim
COPY collab_ext /src/collab_ext
COPY bundle /src/bundle
RUN pip install --no-cache-dir "/src/bundle[serve,text]" && rm -r /src
USER nobody
VOLUME /bundles
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["collab-ext-serve", "--folder", "/bundles", "--host", "0.0.0.0", "--port", "8000"]
