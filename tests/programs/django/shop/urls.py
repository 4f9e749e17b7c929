"""Each visit is a row: the count on disk and the one in memory go together."""

import os
import threading

from django.db import connection, transaction
from django.http import HttpResponse, HttpResponseServerError
from django.urls import path

counting = threading.Lock()
count = 0


def home(request):
    global count
    with counting, transaction.atomic(), connection.cursor() as cursor:
        count += 1
        cursor.execute("CREATE TABLE IF NOT EXISTS visits (pid INTEGER)")
        cursor.execute("INSERT INTO visits VALUES (%s)", [os.getpid()])
        cursor.execute("SELECT COUNT(*) FROM visits WHERE pid = %s", [os.getpid()])
        rows = cursor.fetchone()[0]
    if rows < count:
        return HttpResponseServerError(f"{count} visits and {rows} rows")
    return HttpResponse(f"pid={os.getpid()} count={count}", content_type="text/plain")


urlpatterns = [path("", home)]
